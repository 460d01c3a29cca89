"""How fronts differ, and how far they would move with other prompts or pairs.

The intervals come from the paired bootstrap: units are drawn with replacement, the same ones for
every front (Efron and Tibshirani, 1993), so that what makes a prompt easy for all methods does not
blur their difference. Units that come in families (``Units.clusters``) are drawn by the family.
Intervals hold the middle 95 % of the draws. They say nothing of other training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safe_rlhf_panacea.fronts.indicators import hypervolume
from safe_rlhf_panacea.fronts.result import SAME_PREFERENCE, FrontResult
from safe_rlhf_panacea.fronts.units import Units
from safe_rlhf_panacea.records import Number, Record, Vector

DRAWS = 2000
SEED = 0
LEVEL = 0.95
FEWEST = 5  # units that are drawn among themselves
ENOUGH = 20  # units of an objective that may be drawn with others': some are in every draw
AT_A_TIME = 100  # draws, for the memory
BEYOND = 2.0  # so many standard errors are worth a mark

Interval = tuple[Number, Number]


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


# -- differences -----------------------------------------------------------------------------


class DifferenceRow(Record):
    """A front minus the baseline at one λ.

    Attributes:
        preference: λ, m numbers.
        difference: J - J_baseline.
        standard_error: of the differences for independent runs, √(se² + se²).
        marked: which differences lie beyond two standard errors or, where there are intervals,
            have one without 0.
        scalarised: ⟨λ, ΔJ⟩, the difference in what λ asks for.
        interval: the paired 95 % interval of each difference, where the unit values are known.
    """

    preference: Vector
    difference: Vector
    standard_error: Vector
    marked: tuple[bool, ...]
    scalarised: Number
    interval: tuple[Interval, ...] | None = None


class FrontDifference(Record):
    """By how much a front exceeds the baseline, λ by λ and in all.

    Attributes:
        label: of the front.
        baseline: label of the other one.
        rows: one per λ that both have, in the baseline's order.
        mean_scalarised: mean of ⟨λ, ΔJ⟩ over the rows; None where there is none.
        left_out: by label, how many λ the other front lacks.
        hypervolume_ratio_interval: of the hypervolume over the baseline's; None without unit
            values, and where the baseline's is 0 in some draw.
        mean_scalarised_interval: of ``mean_scalarised``.
    """

    label: str
    baseline: str
    rows: tuple[DifferenceRow, ...]
    mean_scalarised: Number | None = None
    left_out: dict[str, int]
    hypervolume_ratio_interval: Interval | None = None
    mean_scalarised_interval: Interval | None = None


def common_rows(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two grids, size = (N, m) each, that hold the same λ; in the order of ``second``."""
    gaps = np.abs(second[:, None] - first[None]).max(axis=-1)
    of_second, of_first = np.nonzero(gaps <= SAME_PREFERENCE)
    return of_first, of_second


def front_difference(
    front: FrontResult, baseline: FrontResult, drawn: Sequence[Resampled] = ()
) -> FrontDifference:
    """``front`` minus ``baseline`` at every λ that both have, but for rounding.

    Args:
        front: of the same objectives as ``baseline``.
        baseline: the other one.
        drawn: the same draws of both, in this order; empty: there are no intervals.
    """
    mine, other = common_rows(front.preferences, baseline.preferences)
    preferences = baseline.preferences[other]  # size = (n, m)
    values = front.values[mine] - baseline.values[other]
    errors = np.hypot(front.errors[mine], baseline.errors[other])
    scalarised = (preferences * values).sum(axis=-1)  # size = (n,)
    marked, ends = np.abs(values) > BEYOND * errors, None
    found: dict[str, Interval] = {}
    if drawn:
        own, base = drawn
        gaps = own.values[:, mine] - base.values[:, other]  # size = (D, n, m)
        ends = interval(gaps)  # size = (n, m, 2)
        marked = (ends[..., 0] > 0) | (ends[..., 1] < 0)
        if len(mine):
            gains = (gaps * preferences).sum(axis=-1).mean(axis=-1)
            found["mean_scalarised_interval"] = tuple(interval(gains).tolist())
        if (base.hypervolumes > 0).all():
            ratios = interval(own.hypervolumes / base.hypervolumes)
            found["hypervolume_ratio_interval"] = tuple(ratios.tolist())
    columns = {
        "preference": preferences,
        "difference": values,
        "standard_error": errors,
        "marked": marked,
        "scalarised": scalarised,
        **({} if ends is None else {"interval": ends}),
    }
    table = zip(*(column.tolist() for column in columns.values()), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in table]
    return FrontDifference(
        label=front.label,
        baseline=baseline.label,
        rows=rows,
        mean_scalarised=float(scalarised.mean()) if len(mine) else None,
        left_out={
            front.label: len(front.points) - len(mine),
            baseline.label: len(baseline.points) - len(other),
        },
        **found,
    )
