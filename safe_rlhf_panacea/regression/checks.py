"""One number held against its reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from safe_rlhf_panacea.errors import UserError


class CannotRun(UserError):
    """A suite has not what it needs; the message says what is missing and where to get it.

    Attributes:
        reasons: a line for each thing that is missing.
        checks: those that were made all the same.
    """

    def __init__(self, *reasons: str, checks: Sequence[Check] = ()) -> None:
        """Hold the reasons, at least one."""
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)
        self.checks = list(checks)


@dataclass(frozen=True)
class Check:
    """A measured number beside the reference's.

    Attributes:
        reference: name of the reference, ``suite/name``.
        what: which of its numbers.
        expected: what the reference says.
        measured: what today's code gives.
        tolerance: largest difference that still counts as the same, absolute.
    """

    reference: str
    what: str
    expected: float
    measured: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Measured minus expected."""
        return self.measured - self.expected

    @property
    def same(self) -> bool:
        """Whether the difference is within the tolerance; NaN and infinities never are."""
        return math.isfinite(self.difference) and abs(self.difference) <= self.tolerance


def worst_of(
    reference: str,
    what: str,
    expected: Sequence[float],
    measured: Sequence[float],
    tolerance: float,
    names: Sequence[str] | None = None,
) -> Check:
    """One check for a whole series: its worst place, named.

    Args:
        reference: as in ``Check``.
        what: the series, for example ``loss``.
        expected: the reference's numbers.
        measured: today's, as many.
        tolerance: of each of them, absolute.
        names: of the places; default: ``step 1``, ``step 2``, …

    Raises:
        CannotRun: the series differ in length, so that nothing can be said.
    """
    if len(expected) != len(measured) or not len(expected):
        raise CannotRun(
            f"{reference}: {what} has {len(measured)} numbers, the reference {len(expected)}"
        )
    places = names or [f"step {i + 1}" for i in range(len(expected))]
    checks = [
        Check(reference, f"{what}, {place}", float(e), float(m), tolerance)
        for place, e, m in zip(places, expected, measured, strict=True)
    ]
    # Not a number is worse than any distance.
    return max(checks, key=lambda c: abs(c.difference) if math.isfinite(c.difference) else math.inf)
