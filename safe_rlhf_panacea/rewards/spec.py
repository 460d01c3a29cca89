"""What the command line says of m rewards: names, paths, signs, scales, shifts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.preference import check_objective_names
from safe_rlhf_panacea.rewards.functions import Function, function_address, is_function, path_of


@dataclass(frozen=True)
class RewardSpec:
    """One objective and what scores it.

    That is the path of a model, a ``LoadedModel``, ``module:function``, or a function.

    Of a model with several scores ``PATH#label`` is one, by its label or its index.

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
        return self._parts[0]

    @property
    def label(self) -> str | None:
        """What stands after the ``#``, if anything does."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str | LoadedModel, str | None]:
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
            return str(self.path), (id(self.path.model), self.path.label)
        if not isinstance(self.path, str):
            return path_of(self.path), id(self.path)
        if self.is_function:
            return function_address(self.path)
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
            values[name] = float(text)
        except ValueError:
            raise UserError(f"{flag} {name}={text}: not a number") from None
        if not math.isfinite(values[name]):
            raise UserError(f"{flag} {name}={text}: must be finite")
    return values


def reward_specs(
    models: Sequence[tuple[str, str | LoadedModel | Function]],
    scales: Sequence[tuple[str, str]] = (),
    signs: Sequence[tuple[str, str]] = (),
    shifts: Sequence[tuple[str, str]] = (),
    objectives: Sequence[str] | None = None,
) -> list[RewardSpec]:
    """Put the command line's ``name=value`` pairs together.

    Args:
        models: name and path of each reward model, or a function, in the order of λ.
        scales: factors by name, 1 where not given.
        signs: 1 or -1 by name, 1 where not given.
        shifts: what is subtracted from the score, by name, 0 where not given.
        objectives: if given, the order of λ; each must have a reward model.

    Raises:
        UserError: an objective without a reward model, a name twice or unknown, a scale that
            is not positive, a sign that is neither 1 nor -1, one function or model twice.
        PreferenceError: a name that no objective may have.
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
    for name, value in scale.items():
        if value <= 0:
            raise UserError(f"--reward_scales {name}={value:g}: must be positive (use a sign)")
    for name, value in sign.items():
        if value not in (1.0, -1.0):
            raise UserError(f"--reward_signs {name}={value:g}: must be 1 or -1")
    specs = [
        RewardSpec(
            name, paths[name], sign.get(name, 1.0), scale.get(name, 1.0), shift.get(name, 0.0)
        )
        for name in (objectives or names)
    ]
    _check_different(specs)
    return specs


def _check_different(specs: Sequence[RewardSpec]) -> None:
    """Refuse two objectives that are one: the same function and options, or model, and sign."""
    seen: dict[object, str] = {}
    for spec in specs:
        what = "function with the same options" if spec.is_function else "model"
        other = seen.setdefault((spec.scorer, spec.sign), spec.name)
        if other != spec.name:
            raise UserError(
                f"--reward_models: {other} and {spec.name} are the same {what}, "
                f"{spec.address}: they are one objective"
            )
