"""A comparison as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safe_rlhf_panacea.fronts.comparison import Comparison
from safe_rlhf_panacea.fronts.differences import FrontDifference
from safe_rlhf_panacea.show.tables import align, indicator_table, vector_text


def comparison_text(comparison: Comparison) -> str:
    """Which run is what, the indicators, the differences and what to know of them."""
    runs = [f"{run.front.label}: {run.location.place}" for run in comparison.runs]
    table = indicator_table(comparison.summaries)
    parts = ["\n".join(runs), f"{table}, {comparison.reference_from}"]
    if comparison.resampled:
        parts.append(align(hypervolume_rows(comparison)))
    parts += [difference_text(comparison, entry) for entry in comparison.differences]
    return "\n\n".join([*parts, "\n".join(comparison.notes)])


def hypervolume_rows(comparison: Comparison) -> list[list[str]]:
    """A head and a row per run, with the hypervolume's interval."""
    rows = [["run", "hypervolume", "95 % interval"]]
    for label in comparison.resampled:
        low, high = comparison.hypervolume_interval(label)
        volume = comparison.summaries[label]["hypervolume"]
        rows.append([label, f"{volume:.4f}", f"[{low:.4f}, {high:.4f}]"])
    return rows


def difference_text(comparison: Comparison, difference: FrontDifference) -> str:
    """One run against the baseline."""
    lines = [headline(difference)]
    if len(difference.values):
        lines.append(align(difference_rows(comparison.runs[0].front.objectives, difference)))
    return "\n".join([*lines, *summary_lines(comparison, difference)])


def headline(difference: FrontDifference) -> str:
    """What the numbers below are."""
    return f"{difference.label} minus {difference.baseline}"


def difference_rows(objectives: list[str], difference: FrontDifference) -> list[list[str]]:
    """A head and one row per common λ, as text."""
    names = [f"Δ {name}" for name in objectives]
    rows = [[f"λ ({', '.join(objectives)})", *names, "⟨λ, ΔJ⟩"]]
    spreads = difference.errors if difference.intervals is None else difference.intervals.values
    columns = (difference.preferences, difference.values, spreads, difference.beyond)
    for (vector, *cells), gain in zip(
        zip(*columns, strict=True), difference.scalarised, strict=True
    ):
        numbers = [
            f"{value:+.3f} {spread_text(spread)} {'*' if marked else ' '}"
            for value, spread, marked in zip(*cells, strict=True)
        ]
        rows.append([vector_text(vector), *numbers, f"{gain:+.3f}"])
    return rows


def spread_text(spread: np.ndarray) -> str:
    """A standard error, or the two ends of an interval."""
    return f"± {spread:.3f}" if np.ndim(spread) == 0 else interval_text(spread)


def interval_text(ends: Sequence[float], digits: int = 3) -> str:
    """Two signed ends."""
    return f"[{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]"


def summary_lines(comparison: Comparison, difference: FrontDifference) -> list[str]:
    """What the rows come to, and the λ that have none."""
    lines = []
    if len(difference.values):
        marked, count = int(difference.beyond.sum()), difference.values.size
        gain, found = f"{difference.scalarised.mean():+.4f}", difference.intervals
        what = "beyond 2 standard errors" if found is None else "with an interval without 0"
        if found is not None and found.gain is not None:
            gain += f" {interval_text(found.gain, 4)}"
        lines.append(f"mean ⟨λ, ΔJ⟩ {gain}; {marked} of {count} {what} (*)")
    else:
        lines.append("no λ in common")
    ratio = comparison.hypervolume_ratio(difference.label)
    if ratio is not None:
        lines[-1] += f"; hypervolume {ratio:.3f} times that of {difference.baseline}"
        if difference.intervals is not None and difference.intervals.ratio is not None:
            low, high = difference.intervals.ratio
            lines[-1] += f" [{low:.3f}, {high:.3f}]"
    left = {difference.label: difference.only_front, difference.baseline: difference.only_baseline}
    if any(left.values()):
        counts = " and ".join(f"{count} λ of {label}" for label, count in left.items() if count)
        lines.append(f"left out, not in both: {counts}")
    return lines
