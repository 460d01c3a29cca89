"""Tables of fronts and indicators; as plain text, Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.indicators import INDICATORS, MEANINGS, non_dominated_mask
from safe_rlhf_panacea.printing import markdown_text, printable_line

ROWS_SHOWN = 14  # of longer tables on a page, the rest folds


@dataclass(frozen=True)
class Table:
    """A table: what it shows, heads of its columns, and rows."""

    title: str
    columns: list[str]
    rows: list[list[Any]]

    def markdown(self) -> str:
        """As Markdown, without the title; numbers as short as they are readable."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(map(_word, line))} |" for line in lines)

    def html(self) -> str:
        """As HTML below its title; a long one is folded."""
        opened = " open" if len(self.rows) <= ROWS_SHOWN else ""
        body = table_html(self.columns, self.rows)
        return f"<details{opened}><summary>{escape(self.title)}</summary>{body}</details>"


def _word(value: Any) -> str:
    """A cell of Markdown, in one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else markdown_text(value)


def table_html(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    classes: Sequence[Sequence[str]] = (),
    kind: str = "",
) -> str:
    """A table in HTML; all text is escaped.

    Args:
        columns: heads.
        rows: texts and numbers.
        classes: of the cells; default: ``n`` for numbers.
        kind: class of the whole.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = []
    for index, row in enumerate(rows):
        names = classes[index] if classes else ["n" if _is_number(v) else "" for v in row]
        lines.append("".join(map(_cell, row, names)))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="{f"wide {kind}".strip()}"><table><tr>{head}</tr>\n{body}</table></div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _cell(value: Any, name: str) -> str:
    text = "" if value is None else escape(str(value)).replace("\n", "<br>")
    if _is_number(value):
        text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
    return f'<td class="{name}">{text}</td>' if name else f"<td>{text}</td>"


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


def points_table(results: Sequence[Mapping[str, Any]], key: str = "label") -> Table:
    """Every point of every front; ``key``, ``label`` or ``step``, tells the fronts apart."""
    names = results[0]["objectives"]
    columns = ["step" if key == "step" else "method", *(f"λ {n}" for n in names), *names]
    columns += [*(f"± {n}" for n in names), "KL", "± KL"]
    parts = ("preference", "objectives", "standard_errors")
    rows = [
        [result[key], *(v for part in parts for v in point[part]), point["kl"], point["kl_error"]]
        for result in results
        for point in result["front"]
    ]
    return Table("Points", columns, rows)


def indicators_table(
    results: Sequence[Mapping[str, Any]], key: str = "label", **more: Sequence[Any]
) -> Table:
    """A row of indicators per front; further columns, a value per front, may follow."""
    columns = ["step" if key == "step" else "method", *(k.replace("_", " ") for k in INDICATORS)]
    columns += [f"Spearman {name}" for name in results[0]["objectives"]]
    columns += [name.replace("_", " ") for name in more]
    rows = [
        [result[key], *(result[k] for k in INDICATORS), *result["spearman"], *others]
        for result, *others in zip(results, *more.values(), strict=True)
    ]
    point = ", ".join(f"{value:g}" for value in results[0]["reference_point"])
    return Table(f"Indicators, hypervolume measured from ({point})", columns, rows)


def meanings_html() -> str:
    """A line for each indicator."""
    lines = [f"<li><strong>{name}</strong>: {text}</li>" for name, text in MEANINGS.items()]
    return f'<ul class="says">{"".join(lines)}</ul>'


def indicator_texts(result: Mapping[str, Any]) -> list[str]:
    """The indicators and rank correlations of a front, for people."""
    values = [result[key] for key in INDICATORS]
    cells = [str(value) if isinstance(value, int) else f"{value:.4f}" for value in values]
    return [*cells, *(f"{value:.3f}" for value in result["spearman"])]


def front_rows(front: Front) -> list[list[str]]:
    """A head, and one row per λ: the objectives with standard errors, dominated points marked."""
    rows = [[f"λ ({', '.join(front.objectives)})", *front.objectives, "KL", ""]]
    kept = non_dominated_mask(front.values)
    for point, is_kept in zip(front.points, kept, strict=True):
        pairs = [*zip(point.objectives, point.standard_errors, strict=True)]
        pairs.append((point.kl, point.kl_error))
        values = ["" if value is None else f"{value:.3f} ± {error:.3f}" for value, error in pairs]
        rows.append([vector_text(point.preference), *values, "" if is_kept else "dominated"])
    return rows


def front_table(front: Front) -> str:
    """``front_rows`` as text."""
    return align(front_rows(front))


def indicator_table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One line of text per method, its indicators and the reference point.

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
    rows += [[label, *indicator_texts(summary)] for label, summary in summaries.items()]
    point = ", ".join(f"{value:g}" for value in references[0])
    return f"{align(rows)}\nreference point of the hypervolume: ({point})"
