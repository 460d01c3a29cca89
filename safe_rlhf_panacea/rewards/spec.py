"""What the command line says of m rewards: names, paths, signs, scales, shifts, calibration."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.preference import check_objective_names
from safe_rlhf_panacea.records import misfit
from safe_rlhf_panacea.rewards.functions import Function, is_function, parts_of, path_of

# Rewards are in single precision, and so are what they are divided by and its inverse.
SMALLEST, LARGEST = 1e-30, 1e30


@dataclass(frozen=True)
class RewardSpec:
    """One objective and what scores it.

    That is the path of a model, a ``LoadedModel``, ``module:function``, or a function. Of a model
    with several scores ``PATH#label`` is one, by its label or its index.

    The objective to maximise is ``sign · scale · (score - shift)``: a cost model enters with
    sign -1, and the paper multiplies its harmlessness reward by a scale of 5.
    """

    name: str
    path: str | LoadedModel | Function
    sign: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def __str__(self) -> str:
        """As it is recorded, also of a function without its place in memory."""
        return repr(replace(self, path=self.address))

    @property
    def address(self) -> str:
        """How what scores it is called in messages and records."""
        return str(self.path) if isinstance(self.path, LoadedModel) else path_of(self.path)

    @property
    def is_function(self) -> bool:
        """Whether a function scores it, and no model."""
        if isinstance(self.path, str):
            return is_function(self.path)
        return not isinstance(self.path, LoadedModel)

    @property
    def model_path(self) -> str | LoadedModel:
        """The path without the label, or the model."""
        return self._model[0]

    @property
    def label(self) -> str | None:
        """What stands after the ``#``, if anything does."""
        return self._model[1]

    @property
    def _model(self) -> tuple[str | LoadedModel, str | None]:
        if isinstance(self.path, LoadedModel):
            return self.path, None if self.path.label is None else str(self.path.label)
        if not isinstance(self.path, str):
            raise TypeError(f"{self.name} is scored by a function, and no model")
        path, mark, label = self.path.rpartition("#")
        if not mark or Path(self.path).expanduser().exists():  # a folder may have such a name
            return self.path, None
        return path, label

    @property
    def scorer(self) -> tuple[str, object]:
        """What scores it, the same for every way to write it."""
        if isinstance(self.path, LoadedModel):
            return self.address, (id(self.path.model), self.path.label)
        if not isinstance(self.path, str):
            return self.address, id(self.path)
        if self.is_function:
            module, name, options = parts_of(self.path)
            return f"{module}:{name}", frozenset(options)
        path = os.path.expanduser(str(self.model_path))
        return os.path.realpath(path) if os.path.exists(path) else path, self.label

    @property
    def role(self) -> str:
        """``cost`` for a model of sign -1, whose zero normalising must not move, or ``reward``."""
        return "cost" if self.sign < 0 else "reward"


def _numbers(pairs: Sequence[tuple[str, str]], flag: str, names: Sequence[str]) -> dict[str, float]:
    values = {}
    for name, text in pairs:
        if name not in names:
            raise UserError(
                f"{flag} names {name!r}, which has no reward model (known: {', '.join(names)})"
            )
        try:
            value = values[name] = float(text)
        except ValueError:
            raise UserError(f"{flag} {name}={text}: not a number") from None
        if not math.isfinite(value):
            raise UserError(f"{flag} {name}={text}: must be finite")
        if flag == "--reward_scales" and value <= 0:
            raise UserError(f"{flag} {name}={value:g}: must be positive (use a sign)")
        if flag == "--reward_signs" and value not in (1.0, -1.0):
            raise UserError(f"{flag} {name}={value:g}: must be 1 or -1")
    return values


def reward_specs(
    models: Sequence[tuple[str, str | LoadedModel | Function]],
    scales: Sequence[tuple[str, str]] = (),
    signs: Sequence[tuple[str, str]] = (),
    shifts: Sequence[tuple[str, str]] = (),
    objectives: Sequence[str] | None = None,
) -> list[RewardSpec]:
    """Put the command line's ``name=value`` pairs together; a ``UserError`` where they do not fit.

    ``models`` are a name and a path or function for each objective, in the order of λ;
    ``objectives``, if given, are that order, and each must have a reward model. Scales are
    positive, signs 1 or -1; shifts are subtracted from scores.
    """
    names = [name for name, _ in models]
    check_objective_names(names)
    if len(set(names)) != len(names):
        raise UserError(f"--reward_models names an objective twice: {', '.join(names)}")
    paths: Mapping[str, str | LoadedModel | Function] = dict(models)
    for name in objectives or ():
        if name not in paths:
            raise UserError(
                f"objective {name!r} has no reward model: add --reward_models {name}=PATH"
            )
    extra = [name for name in names if objectives is not None and name not in objectives]
    if extra:
        raise UserError(f"--reward_models gives {extra[0]!r}, which is not among --objectives")
    scale = _numbers(scales, "--reward_scales", names)
    sign = _numbers(signs, "--reward_signs", names)
    shift = _numbers(shifts, "--reward_shifts", names)
    specs: list[RewardSpec] = []
    seen: dict[object, str] = {}
    for name in objectives or names:
        numbers = sign.get(name, 1.0), scale.get(name, 1.0), shift.get(name, 0.0)
        spec = RewardSpec(name, paths[name], *numbers)
        # Two objectives with the same function and options, or model, and sign are one.
        other = seen.setdefault((spec.scorer, spec.sign), name)
        if other != name:
            what = "function with the same options" if spec.is_function else "model"
            raise UserError(
                f"--reward_models: {other} and {name} are the same {what}, "
                f"{spec.address}: they are one objective"
            )
        specs.append(spec)
    return specs


def write_calibration(path: str | Path, names: Sequence[str], rewards: torch.Tensor) -> None:
    """Write ``mean``, ``std`` and the number of ``responses`` by objective, as JSON.

    ``rewards``, size = (N, m), are those of the initial model's responses, as the models gave
    them; NaN where an objective does not count, which ``responses`` leaves out. A ``UserError``
    tells of an objective that gives every response the same, or counts for none.
    """
    entries = {}
    for name, column in zip(names, rewards.double().unbind(dim=-1), strict=True):
        if column.isinf().any():
            row = int(column.isinf().nonzero()[0])
            raise UserError(f"{name} gives response {row + 1} {column[row]:g}: nothing to scale")
        column = column[~column.isnan()]
        if len(column) < 2:
            raise UserError(f"{name} counts for {len(column)} responses: nothing to scale")
        mean, std = column.mean().item(), column.std().item()
        if not std >= SMALLEST:
            raise UserError(f"{name} gives all {len(column)} responses {mean:g}: nothing to scale")
        entries[name] = {"mean": mean, "std": std, "responses": len(column)}
    atomic_write_json(path, entries)


def apply_calibration(specs: Sequence[RewardSpec], path: str | Path) -> list[RewardSpec]:
    """Standardise every reward: the mean subtracted, divided by the standard deviation.

    A ``UserError`` says that the file is missing or lacks an objective, or that the rewards are
    scaled already.
    """
    entries = read_json(path)
    calibrated = []
    for spec in specs:
        name = spec.name
        if (spec.scale, spec.shift) != (1.0, 0.0):
            raise UserError(
                f"--reward_calibration sets scale and shift of {name!r}: "
                "leave out --reward_scales and --reward_shifts"
            )
        if not isinstance(entries, dict) or name not in entries:
            raise UserError(
                f"{path}: no entry for the objective {name!r}; calibrate with all of them"
            )
        entry = entries[name]
        if wrong := misfit(entry, {"mean": float, "std": float}, name):
            raise UserError(f"{path}: {wrong}")
        mean, std = float(entry["mean"]), float(entry["std"])
        if not (SMALLEST <= std <= LARGEST and abs(mean) <= LARGEST):
            raise UserError(
                f"{path}: {name} needs a mean and a positive std that single precision can hold, "
                f"not {mean:g} and {std:g}"
            )
        calibrated.append(replace(spec, scale=1 / std, shift=mean))
    return calibrated
