"""How far a number may lie from its mean over seeds before something is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

# How often a correct program, trained on another seed, falls out somewhere: at most this.
FALSE_ALARM = 0.05


@dataclass(frozen=True)
class Band:
    """Where a further seed's number lies: ``mean`` ± ``half_width``."""

    mean: float
    std: float
    half_width: float


def prediction_band(values: Sequence[float], alpha: float, floor: float = 0.0) -> Band:
    """The normal prediction interval of one further draw, mean ± t · s · √(1 + 1/n).

    t is the 1 - α/2 quantile of Student's distribution with n - 1 degrees of freedom, s the
    standard deviation with n - 1 (Hahn and Meeker, Statistical Intervals, section 4.8).

    Args:
        values: one per seed, at least two.
        alpha: chance of a draw outside.
        floor: least half width, for numbers that move in steps.
    """
    from scipy.stats import t

    count = len(values)
    spread = stdev(values)
    reach = float(t.ppf(1 - alpha / 2, count - 1)) * spread * math.sqrt(1 + 1 / count)
    return Band(fmean(values), spread, max(reach, floor))


def joint_bands(
    values: Mapping[str, Sequence[float]], checks: int, floors: Mapping[str, float]
) -> dict[str, Band]:
    """A band for each name, so wide that all of ``checks`` hold together with 1 - FALSE_ALARM.

    By Bonferroni's inequality, which wants no independence: each may fail with
    FALSE_ALARM / checks.

    Args:
        values: name to one number per seed.
        checks: how many bands there are in all, those of other calls included.
        floors: name's beginning to the least half width.
    """
    bands = {}
    for name, numbers in values.items():
        floor = max((w for start, w in floors.items() if name.startswith(start)), default=0.0)
        bands[name] = prediction_band(numbers, FALSE_ALARM / checks, floor)
    return bands
