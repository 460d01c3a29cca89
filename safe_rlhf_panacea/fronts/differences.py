"""What one front reaches more than another, λ by λ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from safe_rlhf_panacea.fronts.bootstrap import Resampled, interval
from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.schema import SAME_PREFERENCE

BEYOND = 2.0  # so many standard errors are worth a mark


@dataclass
class FrontDifference:
    """A front minus the baseline at the n λ that both have, in the baseline's order.

    Attributes:
        label: of the front.
        baseline: of the other one.
        preferences: λ, size = (n, m).
        values: J - J_baseline, size = (n, m).
        errors: standard errors of ``values`` for independent runs, √(se² + se²), size = (n, m).
        only_front: how many λ the baseline lacks.
        only_baseline: how many λ the front lacks.
        rows: of the common λ in the front and in the baseline, size = (n,) each.
        intervals: paired 95 % intervals; None where the values behind the fronts are not there.
    """

    label: str
    baseline: str
    preferences: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    only_front: int
    only_baseline: int
    rows: tuple[np.ndarray, np.ndarray]
    intervals: Intervals | None = None

    @property
    def beyond(self) -> np.ndarray:
        """Which differences their interval, or two standard errors, keep from 0; size = (n, m)."""
        if self.intervals is None:
            return np.abs(self.values) > BEYOND * self.errors
        low, high = np.moveaxis(self.intervals.values, -1, 0)
        return (low > 0) | (high < 0)

    @property
    def scalarised(self) -> np.ndarray:
        """⟨λ, ΔJ⟩: the difference in what each λ asks for, size = (n,)."""
        return (self.preferences * self.values).sum(axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        columns = (self.preferences, self.values, self.errors, self.beyond, self.scalarised)
        keys = ("preference", "difference", "standard_error", "marked", "scalarised")
        table = zip(*(column.tolist() for column in columns), strict=True)
        rows = [dict(zip(keys, row, strict=True)) for row in table]
        found = {
            "label": self.label,
            "baseline": self.baseline,
            "rows": rows,
            "mean_scalarised": float(self.scalarised.mean()) if len(self.values) else None,
            "left_out": {self.label: self.only_front, self.baseline: self.only_baseline},
        }
        if self.intervals is not None:
            found["hypervolume_ratio_interval"] = self.intervals.ratio
            found["mean_scalarised_interval"] = self.intervals.gain
            for row, ends in zip(rows, self.intervals.values.tolist(), strict=True):
                row["interval"] = ends
        return found


@dataclass(frozen=True)
class Intervals:
    """Paired 95 % intervals of a difference.

    Attributes:
        values: of ΔJ, size = (n, m, 2).
        gain: of the mean of ⟨λ, ΔJ⟩ over the common λ, two numbers; None where n = 0.
        ratio: of the hypervolume over the baseline's; None where that is 0 in some draw.
    """

    values: np.ndarray
    gain: list[float] | None
    ratio: list[float] | None


def with_intervals(
    difference: FrontDifference, front: Resampled, baseline: Resampled
) -> FrontDifference:
    """The difference with its intervals, from the same draws of both fronts."""
    mine, other = difference.rows
    gaps = front.values[:, mine] - baseline.values[:, other]  # size = (D, n, m)
    gain = ratio = None
    if len(mine):
        scalarised = (gaps * difference.preferences).sum(axis=-1).mean(axis=-1)
        gain = interval(scalarised).tolist()
    if (baseline.hypervolumes > 0).all():
        ratio = interval(front.hypervolumes / baseline.hypervolumes).tolist()
    return replace(difference, intervals=Intervals(interval(gaps), gain, ratio))


def front_difference(front: Front, baseline: Front) -> FrontDifference:
    """``front`` minus ``baseline`` wherever both have λ, but for rounding.

    Args:
        front: of the same objectives as ``baseline``, every λ once.
        baseline: likewise.
    """
    gaps = np.abs(baseline.preferences[:, None] - front.preferences[None]).max(axis=-1)
    mine, other = np.nonzero(gaps <= SAME_PREFERENCE)  # rows of baseline, rows of front
    return FrontDifference(
        label=front.label,
        baseline=baseline.label,
        preferences=baseline.preferences[mine],
        values=front.values[other] - baseline.values[mine],
        errors=np.hypot(front.errors[other], baseline.errors[mine]),
        only_front=len(front.points) - len(other),
        only_baseline=len(baseline.points) - len(mine),
        rows=(other, mine),
    )
