"""Tables and titles of fronts, indicators and comparisons; as plain text, Markdown, HTML, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.compare import FrontComparison
from safe_rlhf_panacea.fronts.indicators import INDICATORS, non_dominated_mask
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.fronts.stats import FrontDifference
from safe_rlhf_panacea.printing import markdown_text, printable_line

# What a method is called at the beginning of a title, and after another one.
METHODS = {
    "panacea": ("One adapter, any λ", "one adapter, any λ"),
    "rewarded_soups": ("Rewarded Soups", "Rewarded Soups"),
    "discrete_policies": ("One model per λ", "one model per λ"),
}
NAMED = 3  # fronts in a title; of more, their number


@dataclass(frozen=True)
class Table:
    """A table: what it shows, heads of its columns, and rows of texts and numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        """As Markdown, without the title; numbers as short as they are readable."""
        lines = []
        for row in [self.columns, ["---"] * len(self.columns), *self.rows]:
            cells = [f"{value:.4g}" if isinstance(value, float) else value for value in row]
            texts = ["" if cell is None else markdown_text(cell) for cell in cells]
            lines.append(f"| {' | '.join(texts)} |")
        return "\n".join(lines)


def as_csv(tables: Sequence[Table]) -> str:
    """Tables one below the other, an empty line between them."""
    parts = []
    for table in tables:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
        parts.append(text.getvalue())
    return "\n".join(parts)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first one to the left, a rule below the head."""
    rows = [list(map(printable_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * sum([*widths, 2 * len(widths) - 2]), *lines[1:]])


def vector_text(vector: Sequence[float]) -> str:
    """λ with two decimals in parentheses, ``(0.25, 0.75)``."""
    return f"({', '.join(f'{value:.2f}' for value in vector)})"


def point_text(point: Sequence[float]) -> str:
    """A reference point, its numbers as short as they are."""
    return ", ".join(f"{value:g}" for value in point)


def points_table(fronts: Sequence[FrontResult], key: str = "label") -> Table:
    """Every point of every front; ``key``, ``label`` or ``step``, tells the fronts apart."""
    names = fronts[0].objectives
    columns = ["step" if key == "step" else "method", *(f"λ {n}" for n in names), *names]
    columns += [*(f"± {n}" for n in names), "KL", "± KL"]
    rows = []
    for front in fronts:
        for p in front.points:
            numbers = (*p.preference, *p.objectives, *p.standard_errors, p.kl, p.kl_error)
            rows.append([getattr(front, key), *numbers])
    return Table("Points", columns, rows)


def indicators_table(
    fronts: Sequence[FrontResult], key: str = "label", **more: Sequence[Any]
) -> Table:
    """A row of indicators per front; further columns, a value per front, may follow."""
    columns = ["step" if key == "step" else "method", *(k.replace("_", " ") for k in INDICATORS)]
    columns += [f"Spearman {name}" for name in fronts[0].objectives]
    columns += [name.replace("_", " ") for name in more]
    rows = []
    for front, *others in zip(fronts, *more.values(), strict=True):
        found = front.indicators
        values = [found[name] for name in INDICATORS]
        rows.append([getattr(front, key), *values, *found["spearman"], *others])
    point = point_text(fronts[0].reference_point)
    return Table(f"Indicators, hypervolume measured from ({point})", columns, rows)


def indicator_texts(front: FrontResult) -> list[str]:
    """The indicators and rank correlations of a front, for people."""
    found = front.indicators
    values = [found[key] for key in INDICATORS]
    cells = [str(value) if isinstance(value, int) else f"{value:.4f}" for value in values]
    return [*cells, *(f"{value:.3f}" for value in found["spearman"])]


def front_rows(front: FrontResult) -> list[list[str]]:
    """A head, and one row per λ: the objectives with standard errors, dominated points marked."""
    rows = [[f"λ ({', '.join(front.objectives)})", *front.objectives, "KL", ""]]
    kept = non_dominated_mask(front.values)
    for point, is_kept in zip(front.points, kept, strict=True):
        means, errors = (*point.objectives, point.kl), (*point.standard_errors, point.kl_error)
        values = [
            "" if mean is None else f"{mean:.3f} ± {error:.3f}"
            for mean, error in zip(means, errors, strict=True)
        ]
        rows.append([vector_text(point.preference), *values, "" if is_kept else "dominated"])
    return rows


def front_table(front: FrontResult) -> str:
    """The table of ``front_rows`` as aligned plain text."""
    return align(front_rows(front))


def indicator_table(fronts: Sequence[FrontResult]) -> str:
    """One line of text per front with its indicators, and the reference point, one for all."""
    references = [list(front.reference_point) for front in fronts]
    if any(reference != references[0] for reference in references):
        raise UserError(
            f"hypervolumes measured from different reference points {references} "
            "cannot stand in one table: use one for all"
        )
    count = len(fronts[0].objectives)
    correlations = [f"Spearman J{i + 1}, λ{i + 1}" for i in range(count)]
    rows = [["method", *INDICATORS.values(), *correlations]]
    rows += [[front.label, *indicator_texts(front)] for front in fronts]
    return f"{align(rows)}\nreference point of the hypervolume: ({point_text(references[0])})"


def against(objectives: Sequence[str]) -> str:
    """``positive against concise``; three objectives and more as a list."""
    if len(objectives) <= 2:
        return " against ".join(objectives)
    return f"{', '.join(objectives[:-1])} and {objectives[-1]}"


def fronts_title(fronts: Sequence[FrontResult]) -> str:
    """The title of a picture: the methods, or the labels where two fronts are of one method."""
    methods = [METHODS.get(str(front.method)) for front in fronts]
    names = [method for method in methods if method is not None]
    if len(set(names)) == len(fronts):
        text = names[0][0]
        if len(names) > 1:
            text += f", beside {' and '.join(name for _, name in names[1:])}"
    elif len(fronts) <= NAMED:
        text = " and ".join(front.label for front in fronts) or "Front"
    else:
        text = f"{len(fronts)} fronts"
    return f"{text}: {against(fronts[0].objectives)}"


def comparison_text(comparison: FrontComparison) -> str:
    """Which run is what, the indicators, the differences and what to know of them."""
    runs = [f"{run.label}: {run.run}" for run in comparison.runs]
    table = indicator_table(comparison.runs)
    parts = ["\n".join(runs), f"{table}, {comparison.reference_point_from}"]
    if volumes := hypervolume_rows(comparison):
        parts.append(align(volumes))
    for difference in comparison.differences:
        lines = [f"{difference.label} minus {difference.baseline}"]
        if difference.rows:
            lines.append(align(difference_rows(comparison.objectives, difference)))
        parts.append("\n".join([*lines, *summary_lines(comparison, difference)]))
    return "\n\n".join([*parts, "\n".join(comparison.notes)])


def hypervolume_rows(comparison: FrontComparison) -> list[list[str]]:
    """A head and a row per run, with the hypervolume's interval; nothing without intervals."""
    rows = []
    for run in comparison.runs:
        if run.hypervolume_interval is not None:
            low, high = run.hypervolume_interval
            volume = run.indicators["hypervolume"]
            rows.append([run.label, f"{volume:.4f}", f"[{low:.4f}, {high:.4f}]"])
    return [["run", "hypervolume", "95 % interval"], *rows] if rows else []


def difference_rows(objectives: Sequence[str], difference: FrontDifference) -> list[list[str]]:
    """A head and one row per common λ, as text."""
    rows = [[f"λ ({', '.join(objectives)})", *(f"Δ {name}" for name in objectives), "⟨λ, ΔJ⟩"]]
    for row in difference.rows:
        spreads = [f"± {error:.3f}" for error in row.standard_error]
        if row.interval is not None:
            spreads = [f"[{low:+.3f}, {high:+.3f}]" for low, high in row.interval]
        cells = [
            f"{value:+.3f} {spread} {'*' if marked else ' '}"
            for value, spread, marked in zip(row.difference, spreads, row.marked, strict=True)
        ]
        rows.append([vector_text(row.preference), *cells, f"{row.scalarised:+.3f}"])
    return rows


def summary_lines(comparison: FrontComparison, difference: FrontDifference) -> list[str]:
    """What the rows come to, and how many λ have none."""
    text = "no λ in common"
    if difference.mean_scalarised is not None:
        marks = [mark for row in difference.rows for mark in row.marked]
        gain = f"{difference.mean_scalarised:+.4f}"
        if difference.mean_scalarised_interval is not None:
            low, high = difference.mean_scalarised_interval
            gain += f" [{low:+.4f}, {high:+.4f}]"
        paired = difference.rows[0].interval is not None
        what = "with an interval without 0" if paired else "beyond 2 standard errors"
        text = f"mean ⟨λ, ΔJ⟩ {gain}; {sum(marks)} of {len(marks)} {what} (*)"
    run = next(run for run in comparison.runs if run.label == difference.label)
    if run.hypervolume_over_baseline is not None:
        times = f"{run.hypervolume_over_baseline:.3f} times that of {difference.baseline}"
        text += f"; hypervolume {times}"
        if difference.hypervolume_ratio_interval is not None:
            low, high = difference.hypervolume_ratio_interval
            text += f" [{low:.3f}, {high:.3f}]"
    left = [f"{count} λ of {label}" for label, count in difference.left_out.items() if count]
    return [text, f"left out, not in both: {' and '.join(left)}"] if left else [text]
