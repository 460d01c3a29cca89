"""Evaluation grids on the simplex."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from safe_rlhf_panacea.preference.errors import PreferenceError

MOST = 10_000  # vectors of a grid
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)


def _points(step: float, pref_dim: int) -> int:
    return math.comb(round(1 / step) + pref_dim - 1, pref_dim - 1)


def _finest(steps: Sequence[float], pref_dim: int, most: int) -> float | None:
    return next((step for step in steps if _points(step, pref_dim) <= most), None)


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def preference_grid(pref_dim: int, step: float = 0.1) -> torch.Tensor:
    """All vectors of the simplex whose entries are multiples of ``step``.

    For two objectives and a step of 0.1 these are the paper's 11 points, from (0, 1) to (1, 0).

    Returns:
        size = (N, m), float32, with N = C(1/step + m - 1, m - 1).

    Raises:
        PreferenceError: the step does not divide 1, or the grid would have over 10,000 vectors.
    """
    if pref_dim < 1:
        raise PreferenceError(f"a grid needs at least one objective, not {pref_dim}")
    parts = round(1 / step) if 1e-300 < step <= 1 else 0
    if parts < 1 or abs(parts * step - 1) > 1e-6:
        raise PreferenceError(f"grid step {step:g} does not divide 1: use 0.1, 0.25, 0.5, ...")
    if (points := _points(step, pref_dim)) > MOST:
        shown = f"{points:,}" if points < 10**15 else "over 10^15"
        fitting = _finest(STEPS, pref_dim, MOST)
        hint = "no step has fewer" if fitting is None else f"use {fitting:g} or more"
        raise PreferenceError(
            f"grid step {step:g} makes {shown} vectors of {pref_dim} objectives, "
            f"more than {MOST:,}: {hint}"
        )
    lattice = torch.tensor(list(_compositions(parts, pref_dim)), dtype=torch.float64)
    return (lattice / parts).float()


def default_grid(
    pref_dim: int, steps: Sequence[float] = (0.1, 0.2, 0.25, 0.5), most: int = 300
) -> torch.Tensor:
    """The grid of the finest of ``steps`` with at most ``most`` vectors.

    Where every step has more, the vertices and the centre: m + 1 vectors.

    Returns:
        size = (N, m), float32.
    """
    step = _finest(steps, pref_dim, most)
    if step is not None:
        return preference_grid(pref_dim, step)
    return torch.cat([torch.eye(pref_dim), torch.full((1, pref_dim), 1 / pref_dim)])
