"""A comparison as one HTML page that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from safe_rlhf_panacea.fronts.comparison import Comparison
from safe_rlhf_panacea.fronts.differences import FrontDifference
from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.runs import RunFront
from safe_rlhf_panacea.show.comparison_tables import (
    difference_rows,
    headline,
    hypervolume_rows,
    summary_lines,
)
from safe_rlhf_panacea.show.html import image, page
from safe_rlhf_panacea.show.tables import (
    INDICATORS,
    front_rows,
    indicator_texts,
    meanings_html,
    table_html,
)
from safe_rlhf_panacea.show.titles import fronts_title

READING = (
    "* marks differences whose interval leaves 0 out, or, where there are no intervals, those of "
    "more than two standard errors: blue where the run is better than the baseline, orange where "
    "it is worse. ⟨λ, ΔJ⟩ weighs the differences by what λ asks for."
)
NO_BREAK = "\u00a0"
# Beside the style that all pages have.
STYLE = """
body{max-width:72rem}
h3{margin:1.6rem 0 .4rem;font-size:1.05rem}
td,th{text-align:right;white-space:nowrap}
td{font-variant-numeric:tabular-nums;white-space:pre}
th{background:var(--shade);vertical-align:bottom;white-space:normal}
th:first-child,td:first-child,.text td,.text th{text-align:left}
.names td:first-child{white-space:normal;min-width:8rem}
.text td:nth-child(1),.text td:nth-child(2),.text td:nth-child(6){white-space:normal}
.text td:nth-child(2){overflow-wrap:anywhere;min-width:12rem}
.more{background:var(--more)}
.less{background:var(--less)}
"""


def comparison_page(comparison: Comparison, picture: bytes, command: str) -> str:
    """The page.

    Args:
        comparison: what it tells.
        picture: PNG.
        command: that made it.
    """
    body = [
        image(picture, "the fronts of all runs"),
        _section("Notes", [f"<p>{escape(note)}</p>" for note in comparison.notes]),
        _section("Indicators", [_indicators(comparison)]),
        _section("Differences at every λ", _differences(comparison)),
        _section("Points", [_points(run.front) for run in comparison.runs]),
        _section("The runs", [_origins(comparison.runs)]),
        f"<pre>{escape(command)}</pre>",
    ]
    return page(comparison_title(comparison), body, style=STYLE)


def comparison_title(comparison: Comparison) -> str:
    """What the picture and the page are of."""
    results = [run.result for run in comparison.runs]
    return fronts_title(results, [run.front.label for run in comparison.runs])


def _section(title: str, parts: Sequence[str]) -> str:
    return "\n".join([f"<section><h2>{escape(title)}</h2>", *parts, "</section>"])


def _indicators(comparison: Comparison) -> str:
    objectives = comparison.runs[0].front.objectives
    names = [
        name.replace(" ↑", NO_BREAK + "↑").replace(" ↓", NO_BREAK + "↓")
        for name in INDICATORS.values()
    ]
    spearman = [f"Spearman {name}, its{NO_BREAK}λ" for name in objectives]
    rows = [["run", "points", names[0], "÷ baseline’s", *names[1:], *spearman]]
    for label, summary in comparison.summaries.items():
        ratio = comparison.hypervolume_ratio(label)
        cells = indicator_texts(summary)
        cells.insert(1, "" if ratio is None else f"{ratio:.3f}")
        rows.append([label, str(len(summary["front"])), *cells])
    point = ", ".join(f"{value:g}" for value in comparison.reference_point)
    text = f"Hypervolumes are measured from ({point}), {comparison.reference_from}. "
    text += f"The baseline is {comparison.baseline}. ↑ more is better, ↓ less is better."
    parts = [table_html(rows[0], rows[1:], kind="names")]
    if comparison.resampled:
        head, *found = hypervolume_rows(comparison)
        parts.append(table_html(head, found, kind="names"))
    return "\n".join([*parts, f'<p class="says">{escape(text)}</p>', meanings_html()])


def _differences(comparison: Comparison) -> list[str]:
    parts = [f'<p class="says">{escape(READING)}</p>']
    for difference in comparison.differences:
        parts.append(f"<h3>{escape(headline(difference))}</h3>")
        if len(difference.values):
            head, *rows = difference_rows(comparison.runs[0].front.objectives, difference)
            parts.append(table_html(head, rows, _classes(difference)))
        lines = summary_lines(comparison, difference)
        parts.append(f'<p class="says">{"<br>".join(escape(line) for line in lines)}</p>')
    return parts


def _classes(difference: FrontDifference) -> list[list[str]]:
    """Marked differences are coloured by their sign."""
    return [
        [
            "",
            *(
                ("more" if v > 0 else "less") if b else ""
                for v, b in zip(values, marks, strict=True)
            ),
            "",
        ]
        for values, marks in zip(difference.values, difference.beyond, strict=True)
    ]


def _points(front: Front) -> str:
    head, *rows = front_rows(front)
    table = table_html(head, rows)
    return f"<details><summary>{escape(front.label)}</summary>{table}</details>"


def _origins(runs: Sequence[RunFront]) -> str:
    head = ["run", "folder", "file", "method", "step", "program", "commit", "started at"]
    rows = []
    for run in runs:
        origin = run.origin()
        commit = str(origin["commit"] or "")[:12] + (
            " (files modified)" if origin["modified"] else ""
        )
        keys = ("run", "file", "method", "step", "program")
        cells = ["" if origin[key] is None else str(origin[key]) for key in keys]
        rows.append([run.front.label, *cells, commit, str(origin["started_at"] or "")])
    return table_html(head, rows, kind="text")
