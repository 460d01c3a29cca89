"""What one front reaches more than another, λ by λ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """

    label: str
    baseline: str
    preferences: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    only_front: int
    only_baseline: int

    @property
    def beyond(self) -> np.ndarray:
        """Which differences exceed two standard errors, size = (n, m)."""
        return np.abs(self.values) > BEYOND * self.errors

    @property
    def scalarised(self) -> np.ndarray:
        """⟨λ, ΔJ⟩: the difference in what each λ asks for, size = (n,)."""
        return (self.preferences * self.values).sum(axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        columns = (self.preferences, self.values, self.errors, self.beyond, self.scalarised)
        keys = ("preference", "difference", "standard_error", "beyond_two_errors", "scalarised")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            "label": self.label,
            "baseline": self.baseline,
            "rows": [dict(zip(keys, row, strict=True)) for row in rows],
            "mean_scalarised": float(self.scalarised.mean()) if len(self.values) else None,
            "left_out": {self.label: self.only_front, self.baseline: self.only_baseline},
        }


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
    )
