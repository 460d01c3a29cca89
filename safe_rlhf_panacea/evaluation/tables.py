"""Fronts and indicators as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.front import Front
from safe_rlhf_panacea.evaluation.indicators import non_dominated_mask
from safe_rlhf_panacea.printing import printable_line

INDICATORS = {
    "hypervolume": "hypervolume ↑",
    "inner_product": "inner product ↑",
    "sparsity": "sparsity ↓",
    "spacing": "spacing ↓",
    "dominated": "dominated ↓",
}


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first one to the left, a rule below the head."""
    rows = [list(map(printable_line, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * sum([*widths, 2 * len(widths) - 2]), *lines[1:]])


def vector_text(vector: Sequence[float]) -> str:
    """λ as people write it."""
    return f"({', '.join(f'{value:.2f}' for value in vector)})"


def front_rows(front: Front) -> list[list[str]]:
    """A head, and one row per λ: the objectives with standard errors, dominated points marked."""
    rows = [[f"λ ({', '.join(front.objectives)})", *front.objectives, ""]]
    kept = non_dominated_mask(front.values)
    for point, is_kept in zip(front.points, kept, strict=True):
        values = [
            f"{value:.3f} ± {error:.3f}"
            for value, error in zip(point.objectives, point.standard_errors, strict=True)
        ]
        rows.append([vector_text(point.preference), *values, "" if is_kept else "dominated"])
    return rows


def front_table(front: Front) -> str:
    """``front_rows`` as text."""
    return align(front_rows(front))


def indicator_table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per method, its indicators and the reference point.

    Raises:
        UserError: the methods were measured from different reference points.
    """
    references = [list(summary["reference_point"]) for summary in summaries.values()]
    if any(reference != references[0] for reference in references):
        raise UserError(
            f"hypervolumes measured from different reference points {references} "
            "cannot stand in one table: use one for all"
        )
    objectives = len(next(iter(summaries.values()))["spearman"])
    correlations = [f"Spearman J{i + 1}, λ{i + 1}" for i in range(objectives)]
    rows = [["method", *INDICATORS.values(), *correlations]]
    for label, summary in summaries.items():
        cells = [label]
        for key in INDICATORS:
            value = summary[key]
            cells.append(str(value) if isinstance(value, int) else f"{value:.4f}")
        rows.append([*cells, *(f"{value:.3f}" for value in summary["spearman"])])
    point = ", ".join(f"{value:g}" for value in references[0])
    return f"{align(rows)}\nreference point of the hypervolume: ({point})"
