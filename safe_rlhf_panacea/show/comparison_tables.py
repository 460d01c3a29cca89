"""A comparison as plain text."""

from __future__ import annotations

from safe_rlhf_panacea.fronts.comparison import Comparison
from safe_rlhf_panacea.fronts.differences import FrontDifference
from safe_rlhf_panacea.show.tables import align, indicator_table, vector_text


def comparison_text(comparison: Comparison) -> str:
    """Which run is what, the indicators, the differences and what to know of them."""
    runs = [f"{run.front.label}: {run.location.place}" for run in comparison.runs]
    table = indicator_table(comparison.summaries)
    parts = ["\n".join(runs), f"{table}, {comparison.reference_from}"]
    parts += [difference_text(comparison, entry) for entry in comparison.differences]
    return "\n\n".join([*parts, "\n".join(comparison.notes)])


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
    columns = (difference.preferences, difference.values, difference.errors, difference.beyond)
    for (vector, *cells), gain in zip(
        zip(*columns, strict=True), difference.scalarised, strict=True
    ):
        numbers = [
            f"{value:+.3f} ± {error:.3f} {'*' if marked else ' '}"
            for value, error, marked in zip(*cells, strict=True)
        ]
        rows.append([vector_text(vector), *numbers, f"{gain:+.3f}"])
    return rows


def summary_lines(comparison: Comparison, difference: FrontDifference) -> list[str]:
    """What the rows come to, and the λ that have none."""
    lines = []
    if len(difference.values):
        marked, count = int(difference.beyond.sum()), difference.values.size
        gain = difference.scalarised.mean()
        lines.append(f"mean ⟨λ, ΔJ⟩ {gain:+.4f}; {marked} of {count} beyond 2 standard errors (*)")
    else:
        lines.append("no λ in common")
    ratio = comparison.hypervolume_ratio(difference.label)
    if ratio is not None:
        lines[-1] += f"; hypervolume {ratio:.3f} times that of {difference.baseline}"
    left = {difference.label: difference.only_front, difference.baseline: difference.only_baseline}
    if any(left.values()):
        counts = " and ".join(f"{count} λ of {label}" for label, count in left.items() if count)
        lines.append(f"left out, not in both: {counts}")
    return lines
