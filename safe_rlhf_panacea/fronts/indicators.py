"""Quality indicators of fronts; objectives are maximised, no dominance tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from safe_rlhf_panacea.errors import UserError

INDICATORS = {  # as they are headed in tables; the arrow points to what is better
    "hypervolume": "hypervolume ↑",
    "inner_product": "inner product ↑",
    "sparsity": "sparsity ↓",
    "spacing": "spacing ↓",
    "dominated": "dominated ↓",
}
MEANINGS = {  # in one line each
    "hypervolume": "how much of the space above the reference point the front dominates",
    "inner product": "mean of ⟨λ, J(λ)⟩: how much comes of what λ asks for",
    "sparsity": "mean squared gap between neighbours: small on a dense front, or a collapsed one",
    "spacing": "standard deviation of the distances between neighbours: small where they are even",
    "dominated": "points that another point of the same front beats or equals in every objective",
    "Spearman": "rank correlation of an objective with its weight in λ: 1 where more gives more",
}


def non_dominated_mask(values: np.ndarray) -> np.ndarray:
    """Which points no other point dominates (Definition 3.1), size = (N,), of J, size = (N, m)."""
    at_least = np.all(values[:, None] >= values[None], axis=-1)  # [i, j]: i >= j everywhere
    better = np.any(values[:, None] > values[None], axis=-1)
    return ~np.any(at_least & better, axis=0)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by the points above ``reference`` (Zitzler and Thiele, 1998).

    J have size = (N, m), the reference point has (m,); points that do not exceed it count nothing.
    """
    import moocore

    if np.shape(reference) != values.shape[1:]:
        raise UserError(
            f"a reference point of {np.size(reference)} numbers for "
            f"{values.shape[1]} objectives: give one for each"
        )
    inside = values[(values > reference).all(axis=-1)]
    if not len(inside):
        return 0.0
    return float(moocore.hypervolume(-inside, ref=-np.asarray(reference, dtype=np.float64)))


def sparsity(values: np.ndarray) -> float:
    """Mean over objectives and gaps of squared gaps: Σ ‖J_i - J_{i+1}‖² / (m (N - 1)).

    Over the non-dominated points, each objective sorted by itself (Xu et al., 2020, divided by
    m). Smaller is denser; a front that has collapsed to a point scores 0 and is not good.
    """
    kept = np.sort(values[non_dominated_mask(values)], axis=0)
    if len(kept) < 2:
        return 0.0
    return float((np.diff(kept, axis=0) ** 2).sum() / (kept.shape[1] * (len(kept) - 1)))


def spacing(values: np.ndarray) -> float:
    """Standard deviation of the distances to the nearest neighbour (Schott, 1995).

    Over the non-dominated points, Euclidean. Smaller is more even, whatever the extent.
    """
    kept = values[non_dominated_mask(values)]
    if len(kept) < 2:
        return 0.0
    distances = np.linalg.norm(kept[:, None] - kept[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).std())


def spearman(values: np.ndarray, preferences: np.ndarray) -> list[float]:
    """Rank correlation of J_i with λ_i for every i; 0 where one of the two is constant."""
    from scipy.stats import spearmanr

    result = []
    for column, weights in zip(values.T, preferences.T, strict=True):
        constant = np.ptp(column) == 0 or np.ptp(weights) == 0
        result.append(0.0 if constant else float(spearmanr(weights, column).statistic))
    return result


def indicators(
    values: np.ndarray, preferences: np.ndarray, reference_point: Sequence[float]
) -> dict[str, Any]:
    """All indicators of J at λ, size = (N, m) each; ``spearman`` has a number per objective."""
    return {
        "hypervolume": hypervolume(values, np.asarray(reference_point)),
        "inner_product": float((values * preferences).sum(axis=-1).mean()),
        "sparsity": sparsity(values),
        "spacing": spacing(values),
        "dominated": int((~non_dominated_mask(values)).sum()),
        "spearman": spearman(values, preferences),
    }
