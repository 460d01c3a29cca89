"""Evaluation grids on the simplex."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from safe_rlhf_panacea.preference.errors import PreferenceError


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
        PreferenceError: the step does not divide 1.
    """
    if pref_dim < 1:
        raise PreferenceError(f"a grid needs at least one objective, not {pref_dim}")
    parts = round(1 / step) if step > 0 else 0
    if parts < 1 or abs(parts * step - 1) > 1e-6:
        raise PreferenceError(f"grid step {step:g} does not divide 1: use 0.1, 0.25, 0.5, ...")
    lattice = torch.tensor(list(_compositions(parts, pref_dim)), dtype=torch.float64)
    return (lattice / parts).float()
