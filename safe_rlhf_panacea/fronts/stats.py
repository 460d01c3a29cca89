"""How fronts differ, and how far they would move with other prompts or pairs.

The intervals come from the paired bootstrap: units are drawn with replacement, the same ones for
every front (Efron and Tibshirani, 1993), so that what makes a prompt easy for all methods does not
blur their difference. Units that come in families (``Units.clusters``) are drawn by the family.
Intervals hold the middle 95 % of the draws. They say nothing of other training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from safe_rlhf_panacea.fronts.result import Units

DRAWS = 2000
SEED = 0
LEVEL = 0.95
FEWEST = 5  # units that are drawn among themselves
ENOUGH = 20  # units of an objective that may be drawn with others': some are in every draw
AT_A_TIME = 100  # draws, for the memory


def interval(draws: np.ndarray) -> np.ndarray:
    """Lower and upper end over the first axis, stacked last; size = (..., 2)."""
    tail = (1 - LEVEL) / 2
    return np.stack(np.quantile(draws, [tail, 1 - tail], axis=0), axis=-1)


# -- draws of units --------------------------------------------------------------------------


def can_resample(found: Sequence[Units | None]) -> bool:
    """Whether all fronts have the values of the same units, and enough of them."""
    first = found[0]
    if first is None or not same_units(found):
        return False
    if first.clusters is not None and len(set(first.clusters)) < FEWEST:
        return False
    counted = _counted(first)
    alike = (counted == counted[0]).all()
    enough = FEWEST if alike or _groups(counted).max() else ENOUGH
    return bool((counted.sum(axis=0) >= enough).all())


def same_units(found: Sequence[Units | None]) -> bool:
    """Whether all fronts have the values of the same units, in the same order and use.

    Where a reward does not count for some responses to a prompt only, the use is not the same.
    """
    first = found[0]
    if first is None:
        return False
    counted = _counted(first)
    return all(
        other is not None
        and list(other.names) == list(first.names)
        and other.clusters == first.clusters
        and (~np.isnan(other.values) == counted).all()
        for other in found
    )


def _counted(units: Units) -> np.ndarray:
    """Which units count for which objective, size = (U, m)."""
    return ~np.isnan(units.values[0])


def _groups(counted: np.ndarray) -> np.ndarray:
    """The group among which each unit is drawn, size = (U,).

    Units that count for the same objectives are a group, unless one such group has fewer than
    ``FEWEST`` units: then all units are one group.
    """
    _, group, counts = np.unique(counted, axis=0, return_inverse=True, return_counts=True)
    return group if counts.min() >= FEWEST else np.zeros_like(group)


def multiplicities(
    counted: np.ndarray, draws: int, seed: int = SEED, clusters: Sequence[str] | None = None
) -> np.ndarray:
    """How often every unit is drawn, size = (D, U).

    Units that count for the same objectives are drawn among themselves, where there are a few of
    each kind: every objective keeps as many units as it has. Families are drawn as a whole.

    Args:
        counted: which units count for which objective, size = (U, m).
        draws: D.
        seed: of the draws.
        clusters: the family of each unit.
    """
    generator = np.random.default_rng(seed)
    if clusters is not None:
        _, family = np.unique(clusters, return_inverse=True)
        count = family.max() + 1
        return generator.multinomial(count, np.full(count, 1 / count), size=draws)[:, family]
    group = _groups(counted)
    result = np.zeros((draws, len(counted)))
    for index in range(group.max() + 1):
        members = np.flatnonzero(group == index)
        shares = np.full(len(members), 1 / len(members))
        result[:, members] = generator.multinomial(len(members), shares, size=draws)
    return result


def resampled_values(units: Units, times: np.ndarray) -> np.ndarray:
    """J of every draw, size = (D, N, m).

    Args:
        units: values of size (N, U, m).
        times: of ``multiplicities``, size = (D, U).
    """
    counted = _counted(units)  # size = (U, m)
    sums = np.einsum("du,num->dnm", times, np.nan_to_num(units.values), optimize=True)
    return sums / (times @ counted)[:, None]


@dataclass(frozen=True)
class Resampled:
    """What one front reaches in D bootstrap draws.

    Attributes:
        values: J, size = (D, N, m).
        hypervolumes: size = (D,).
    """

    values: np.ndarray
    hypervolumes: np.ndarray


def resample(
    found: Sequence[Units], reference_point: Sequence[float], draws: int = DRAWS
) -> list[Resampled]:
    """Draw the units D times, and measure every front on each of these draws.

    Args:
        found: the unit values of each front, for which ``can_resample`` holds.
        reference_point: of the hypervolumes, m numbers.
        draws: D.
    """
    counted = _counted(found[0])
    parts: list[list[np.ndarray]] = [[] for _ in found]
    for start in range(0, draws, AT_A_TIME):
        size = min(AT_A_TIME, draws - start)
        times = multiplicities(counted, size, SEED + start, found[0].clusters)
        for part, units in zip(parts, found, strict=True):
            part.append(resampled_values(units, times))
    reference = np.asarray(reference_point, dtype=np.float64)
    fronts = [np.concatenate(part) for part in parts]
    return [Resampled(f, np.array([hypervolume(one, reference) for one in f])) for f in fronts]


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
    """Which points no other point dominates (Definition 3.1), size = (N,).

    Args:
        values: J, size = (N, m).
    """
    at_least = np.all(values[:, None] >= values[None], axis=-1)  # [i, j]: i >= j everywhere
    better = np.any(values[:, None] > values[None], axis=-1)
    return ~np.any(at_least & better, axis=0)


def dominated_count(values: np.ndarray) -> int:
    """The number of points that another point of the same front dominates."""
    return int((~non_dominated_mask(values)).sum())


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by the points above ``reference`` (Zitzler and Thiele, 1998).

    Args:
        values: J, size = (N, m).
        reference: size = (m,); points that do not exceed it count nothing.

    Raises:
        UserError: a reference point of another number of objectives.
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


def inner_product(values: np.ndarray, preferences: np.ndarray) -> float:
    """Mean over the grid of ⟨λ, J(λ)⟩: how well λ gets what it weighs."""
    return float((values * preferences).sum(axis=-1).mean())


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
    """Rank correlation of J_i with λ_i for every i; 0 where J_i is constant."""
    from scipy.stats import spearmanr

    result = []
    for index in range(values.shape[1]):
        constant = np.ptp(values[:, index]) == 0 or np.ptp(preferences[:, index]) == 0
        statistic = 0.0
        if not constant:
            statistic = spearmanr(preferences[:, index], values[:, index]).statistic
        result.append(float(statistic))
    return result


def indicators(
    values: np.ndarray, preferences: np.ndarray, reference_point: Sequence[float]
) -> dict[str, Any]:
    """All indicators of a front, and ``spearman``, a rank correlation per objective.

    Args:
        values: J, size = (N, m).
        preferences: λ, size = (N, m).
        reference_point: of the hypervolume, m numbers.
    """
    return {
        "hypervolume": hypervolume(values, np.asarray(reference_point)),
        "inner_product": inner_product(values, preferences),
        "sparsity": sparsity(values),
        "spacing": spacing(values),
        "dominated": dominated_count(values),
        "spearman": spearman(values, preferences),
    }
