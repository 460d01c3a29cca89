"""How far fronts would move with other prompts or pairs: the paired bootstrap.

Units are drawn with replacement, the same ones for every front (Efron and Tibshirani, 1993), so
that what makes a prompt easy for all methods does not blur their difference. Units that come in
families (``Units.clusters``) are drawn by the family. Intervals hold the middle 95 % of the draws.
They say nothing of other training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safe_rlhf_panacea.fronts.indicators import hypervolume
from safe_rlhf_panacea.fronts.units import Units

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
        and other.names == first.names
        and other.clusters == first.clusters
        and (~np.isnan(other.values) == counted).all()
        for other in found
    )


def _counted(units: Units) -> np.ndarray:
    """Which units count for which objective, size = (U, m)."""
    return ~np.isnan(units.values[0])


def _groups(counted: np.ndarray) -> np.ndarray:
    """Of every unit, size = (U,): one per use; all in one where some use has few units."""
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


def resampled_front(units: Units, times: np.ndarray) -> np.ndarray:
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
    """The draws of one front.

    Attributes:
        values: J, size = (D, N, m).
        hypervolumes: size = (D,).
    """

    values: np.ndarray
    hypervolumes: np.ndarray


def resample(
    found: Sequence[Units], reference_point: Sequence[float], draws: int = DRAWS
) -> list[Resampled]:
    """Every front on the same draws.

    Args:
        found: for which ``can_resample`` holds.
        reference_point: of the hypervolumes, m numbers.
        draws: D.
    """
    reference = np.asarray(reference_point, dtype=np.float64)
    fronts = _drawn(found, draws)
    return [
        Resampled(values, np.array([hypervolume(one, reference) for one in values]))
        for values in fronts
    ]


def _drawn(found: Sequence[Units], draws: int) -> list[np.ndarray]:
    """J of every draw of every front, size = (D, N, m) each."""
    counted, parts = _counted(found[0]), []
    for start in range(0, draws, AT_A_TIME):
        size = min(AT_A_TIME, draws - start)
        times = multiplicities(counted, size, SEED + start, found[0].clusters)
        parts.append([resampled_front(units, times) for units in found])
    return [np.concatenate(of_one) for of_one in zip(*parts, strict=True)]
