"""Bringing rewards of different units to one: mean and spread on the initial model's responses.

The paper multiplies its harmlessness reward by 5 because it saw the two models' outputs differ
by that factor; this is how to see it for other models, and to correct for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.records import misfit
from safe_rlhf_panacea.rewards.spec import RewardSpec

# Rewards are in single precision, and so are what they are divided by and its inverse.
SMALLEST, LARGEST = 1e-30, 1e30


def write_calibration(path: str | Path, names: Sequence[str], rewards: torch.Tensor) -> None:
    """Keep what ``calibration`` says, as JSON."""
    atomic_write_json(path, calibration(names, rewards))


def calibration(names: Sequence[str], rewards: torch.Tensor) -> dict[str, dict[str, float]]:
    """``mean``, ``std`` and the number of ``responses`` by objective.

    Args:
        names: the objectives.
        rewards: of the initial model's responses, as the models gave them, size = (N, m); NaN
            where an objective does not count, which ``responses`` leaves out.

    Raises:
        UserError: an objective that gives every response the same reward, or counts for none.
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
    return entries


def apply_calibration(specs: Sequence[RewardSpec], path: str | Path) -> list[RewardSpec]:
    """Standardise every reward: the mean subtracted, divided by the standard deviation.

    Raises:
        UserError: the file is missing or lacks an objective, or the rewards are scaled already.
    """
    entries = read_json(path)
    calibrated = []
    for spec in specs:
        if (spec.scale, spec.shift) != (1.0, 0.0):
            raise UserError(
                f"--reward_calibration sets scale and shift of {spec.name!r}: "
                "leave out --reward_scales and --reward_shifts"
            )
        scale, shift = _scaling(entries, spec.name, path)
        calibrated.append(dataclasses.replace(spec, scale=scale, shift=shift))
    return calibrated


def _scaling(entries: object, name: str, path: str | Path) -> tuple[float, float]:
    if not isinstance(entries, dict) or name not in entries:
        raise UserError(f"{path}: no entry for the objective {name!r}; calibrate with all of them")
    entry = entries[name]
    if wrong := misfit(entry, {"mean": float, "std": float}, name):
        raise UserError(f"{path}: {wrong}")
    mean, std = float(entry["mean"]), float(entry["std"])
    if not (SMALLEST <= std <= LARGEST and abs(mean) <= LARGEST):
        raise UserError(
            f"{path}: {name} needs a mean and a positive std that single precision can hold, "
            f"not {mean:g} and {std:g}"
        )
    return 1 / std, mean
