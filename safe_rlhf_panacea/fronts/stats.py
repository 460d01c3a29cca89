"""Values of single units, differences of fronts, and intervals drawn from these values.

Intervals come from the paired bootstrap: units are drawn with replacement, the same ones for every
front (Efron and Tibshirani, 1993), so that what makes a prompt easy for all methods does not blur
their difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.indicators import hypervolume
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.records import Number, Record, Vector, misfit

if TYPE_CHECKING:
    from safe_rlhf_panacea.fronts.result import FrontResult

SAME_PREFERENCE = 1e-6  # two λ that differ by no more are the same one
BEYOND = 2.0  # so many standard errors are worth a mark
VALUES_FILE = "values.json"  # beside front.json: what every unit gave
DIGITS = 6  # of the numbers in it
ROUNDED = 1e-5  # how far the means of what was written so may lie from the points
DRAWS = 2000
SEED = 0
LEVEL = 0.95  # the share of the draws that an interval holds
FEWEST = 5  # units that are drawn among themselves
ENOUGH = 20  # units of an objective that may be drawn with others': some are in every draw
AT_A_TIME = 100  # draws, for the memory
Interval = tuple[Number, Number]


@dataclass(frozen=True, eq=False)
class Units:
    """What every prompt or pair gave at every λ; NaN where it does not count for an objective."""

    names: Sequence[str]  # U of them, made of a prompt's text or of a pair's tokens
    values: np.ndarray  # size = (N, U, m), float64
    clusters: Sequence[str] | None = None  # families that are drawn whole, such as one topic's

    def problem(self, means: np.ndarray) -> str | None:
        """Why these are not the units of a front with ``means`` J, size = (N, m); None if so."""
        size = (means.shape[0], len(self.names), means.shape[1])
        if self.values.shape != size:
            return f"unit values of size {self.values.shape} in place of {size}"
        if not np.allclose(np.nanmean(self.values, axis=1), means, atol=ROUNDED):
            return "the means of the unit values are not those of the front"
        return None


def unit_name(*parts: str | Sequence[int]) -> str:
    """A short name of a unit's texts or token ids; equal units have equal names."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def write_units(file: Path, preferences: np.ndarray, units: Units) -> None:
    """Write ``values.json`` of a front at N ``preferences``, size = (N, m)."""
    values = units.values.round(DIGITS).astype(object)
    values[np.isnan(units.values)] = None  # JSON has no NaN
    content = {
        "units": [*units.names],
        "preferences": preferences.round(DIGITS).tolist(),
        "values": values.tolist(),
    }
    if units.clusters is not None:
        content["clusters"] = [*units.clusters]
    atomic_write_json(file, content, indent=None)


def read_units(file: Path, preferences: np.ndarray, means: np.ndarray) -> Units:
    """Read the unit values of a front at N ``preferences`` with ``means`` J, size = (N, m) each."""
    content = read_json(file)
    points, m = means.shape
    found = content if isinstance(content, dict) else {}
    names, clusters = found.get("units"), found.get("clusters")
    count = len(names) if isinstance(names, list) else 0
    shape: dict[str, Any] = {
        "units": [str],
        "preferences": [[float, m], points],
        "values": [[[(float, type(None)), m], count], points],
    }
    if clusters is not None:
        shape["clusters"] = [str, count]
    wrong = misfit(content, shape)
    if wrong is None:
        units = Units(content["units"], np.array(content["values"], dtype=np.float64), clusters)
        wrong = units.problem(means)
        if wrong is None and np.allclose(content["preferences"], preferences, atol=ROUNDED):
            return units
    raise UserError(f"{file}: not the values of the front beside it: {wrong or 'evaluate anew'}")


@dataclass(frozen=True)
class Resampled:
    """What a front reaches in D draws: J, size = (D, N, m), and hypervolumes, size = (D,)."""

    values: np.ndarray
    hypervolumes: np.ndarray


def interval(draws: np.ndarray) -> np.ndarray:
    """Lower and upper end of the middle 95 % over the first axis, size = (..., 2)."""
    tail = (1 - LEVEL) / 2
    return np.stack(np.quantile(draws, [tail, 1 - tail], axis=0), axis=-1)


def can_resample(found: Sequence[Units | None]) -> bool:
    """Whether all fronts have the values of the same units, in the same use, and enough of them.

    Where a reward does not count for some responses to a prompt only, the use is not the same.
    """
    first = found[0]
    if first is None:
        return False
    counted = ~np.isnan(first.values[0])  # size = (U, m)
    for other in found:
        if (
            other is None
            or list(other.names) != list(first.names)
            or other.clusters != first.clusters
            or (~np.isnan(other.values) != counted).any()
        ):
            return False
    if first.clusters is not None and len(set(first.clusters)) < FEWEST:
        return False
    alike = (counted == counted[0]).all()
    enough = FEWEST if alike or _groups(counted).max() else ENOUGH
    return bool((counted.sum(axis=0) >= enough).all())


def _groups(counted: np.ndarray) -> np.ndarray:
    """The group among which each unit is drawn, size = (U,): those that count for the same."""
    _, group, counts = np.unique(counted, axis=0, return_inverse=True, return_counts=True)
    # A group of few would hardly vary: then all units are one group.
    return group if counts.min() >= FEWEST else np.zeros_like(group)


def multiplicities(
    counted: np.ndarray, draws: int, seed: int = SEED, clusters: Sequence[str] | None = None
) -> np.ndarray:
    """How often every unit is drawn, size = (D, U), of which ``counted``, size = (U, m), says.

    Units of a group are drawn among themselves: every objective keeps as many units as it has.
    Families are drawn as a whole.
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


def resample(
    found: Sequence[Units], reference_point: Sequence[float], draws: int = DRAWS
) -> list[Resampled]:
    """Draw the units of fronts for which ``can_resample`` holds, and measure them on each draw."""
    counted = ~np.isnan(found[0].values[0])  # size = (U, m)
    parts: list[list[np.ndarray]] = [[] for _ in found]
    for start in range(0, draws, AT_A_TIME):
        size = min(AT_A_TIME, draws - start)
        times = multiplicities(counted, size, SEED + start, found[0].clusters)  # size = (D, U)
        for part, units in zip(parts, found, strict=True):
            sums = np.einsum("du,num->dnm", times, np.nan_to_num(units.values), optimize=True)
            part.append(sums / (times @ counted)[:, None])
    reference = np.asarray(reference_point, dtype=np.float64)
    fronts = [np.concatenate(part) for part in parts]
    return [Resampled(f, np.array([hypervolume(one, reference) for one in f])) for f in fronts]


class DifferenceRow(Record):
    """A front minus the baseline at one λ."""

    preference: Vector
    difference: Vector  # J - J_baseline
    standard_error: Vector  # of independent runs, √(se² + se²)
    marked: tuple[bool, ...]  # an interval without 0, or beyond two standard errors without any
    scalarised: Number  # ⟨λ, ΔJ⟩, the difference in what λ asks for
    interval: tuple[Interval, ...] | None = None  # where the values of the units are known


class FrontDifference(Record):
    """By how much a front exceeds the baseline, λ by λ and in all."""

    label: str
    baseline: str
    rows: tuple[DifferenceRow, ...]  # one per λ that both have, in the baseline's order
    mean_scalarised: Number | None = None  # over the rows, where there are some
    left_out: dict[str, int]  # by label, how many λ the other front lacks
    hypervolume_ratio_interval: Interval | None = None  # None also if a draw of the baseline has 0
    mean_scalarised_interval: Interval | None = None


def common_rows(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two grids, size = (N, m) each, that hold the same λ; in the order of ``second``."""
    gaps = np.abs(second[:, None] - first[None]).max(axis=-1)
    of_second, of_first = np.nonzero(gaps <= SAME_PREFERENCE)
    return of_first, of_second


def front_difference(
    front: FrontResult,
    baseline: FrontResult,
    drawn: Resampled | None = None,
    drawn_baseline: Resampled | None = None,
) -> FrontDifference:
    """``front`` minus ``baseline`` at every λ that both have, but for rounding.

    Intervals need the same bootstrap draws of both.
    """
    mine, other = common_rows(front.preferences, baseline.preferences)
    preferences = baseline.preferences[other]  # size = (n, m)
    values = front.values[mine] - baseline.values[other]
    errors = np.hypot(front.errors[mine], baseline.errors[other])
    scalarised = (preferences * values).sum(axis=-1)  # size = (n,)
    marked = np.abs(values) > BEYOND * errors
    intervals: list[Any] = [None] * len(mine)
    gain = ratio = None
    if drawn is not None and drawn_baseline is not None:
        gaps = drawn.values[:, mine] - drawn_baseline.values[:, other]  # size = (D, n, m)
        ends = interval(gaps)  # size = (n, m, 2)
        marked = (ends[..., 0] > 0) | (ends[..., 1] < 0)
        intervals = ends.tolist()
        if len(mine):
            gain = interval((gaps * preferences).sum(axis=-1).mean(axis=-1)).tolist()
        if (drawn_baseline.hypervolumes > 0).all():
            ratio = interval(drawn.hypervolumes / drawn_baseline.hypervolumes).tolist()
    columns = [column.tolist() for column in (preferences, values, errors, marked, scalarised)]
    names = ("preference", "difference", "standard_error", "marked", "scalarised", "interval")
    rows = zip(*columns, intervals, strict=True)
    return FrontDifference(
        label=front.label,
        baseline=baseline.label,
        rows=[dict(zip(names, row, strict=True)) for row in rows],
        mean_scalarised=float(scalarised.mean()) if len(mine) else None,
        left_out={
            front.label: len(front.points) - len(mine),
            baseline.label: len(baseline.points) - len(other),
        },
        hypervolume_ratio_interval=ratio,
        mean_scalarised_interval=gain,
    )
