"""Pages that open without a network: no scripts, pictures inside, all text escaped by jinja2."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from safe_rlhf_panacea.data.templates import without_template
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.compare import FrontComparison
from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.indicators import INDICATORS, MEANINGS
from safe_rlhf_panacea.io import read_json_lines
from safe_rlhf_panacea.records import misfit
from safe_rlhf_panacea.runs.run_folder import METRICS_FILE, RUN_FILE, read_record
from safe_rlhf_panacea.show import pictures, tables
from safe_rlhf_panacea.show.plots import picture_bytes, spread

if TYPE_CHECKING:
    from safe_rlhf_panacea.dashboard import Content

REFRESH_SECONDS = 60
ROWS_SHOWN = 14  # of longer tables on a page, the rest folds
MOST_POINTS = 2000  # of a curve
# Title to series, and the beginning of those that carry an objective's name.
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "reward: each objective's, and their aggregate": (("train/reward",), "train/reward_"),
    "raw reward, as the models give it": ((), "train/raw_reward_"),
    "loss": (("train/loss", "train/actor_loss", "train/ptx_loss"), "train/loss_"),
    "loss of the critic": (("train/reward_critic_loss",), ""),
    "accuracy by objective": ((), "train/accuracy_"),
    "KL in training (nats per response)": (("train/kl_divergence",), ""),
    "mean λ of each step": ((), "train/preference_"),
    "mean length of responses (tokens)": (("train/mean_generated_length",), ""),
}
# Beginnings of series that are no objective's reward.
OTHERS = (
    *("train/reward_with", "train/reward_advantage", "train/reward_return"),
    *("train/reward_value", "train/reward_critic", "train/reward_accuracy", "train/reward_margin"),
)
ANSWERS = 5  # λ of which a prompt's answers are shown
NO_BREAK = "\u00a0"


def _cell(value: Any) -> str:
    """A value as it stands in a table: numbers short, lines of a text below each other."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else escape(value).replace("\n", Markup("<br>"))


@functools.cache
def _environment() -> Environment:
    """The templates beside this file, which escape whatever they are given."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
    )
    found.globals["meaning"] = MEANINGS
    found.filters["base64"] = lambda data: base64.b64encode(data).decode()
    found.filters["cell"] = _cell
    return found


def _part(name: str, *args: Any) -> Markup:
    """What a macro of ``parts.html`` makes."""
    return getattr(_environment().get_template("parts.html").module, name)(*args)


def image(png: bytes, alternative: str) -> Markup:
    """An ``img`` element that holds the PNG itself; ``alternative`` is its text."""
    return _part("image", png, alternative)


def table_html(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],  # texts and numbers
) -> Markup:
    """A table as HTML, within a box that scrolls where it is too wide."""
    return _part("table", columns, rows)


def folded_table(table: tables.Table) -> Markup:
    """A table below its title, which shows and hides it; a long one is hidden at first."""
    return _part("folded", table.title, table.columns, table.rows, len(table.rows) <= ROWS_SHOWN)


def page(title: str, parts: Sequence[Markup]) -> str:
    """A page of parts, one below the other; what is not ``Markup`` is escaped."""
    return _rendered("page.html", title, parts=parts)


def _rendered(template: str, title: str, refresh: int | None = None, **values: Any) -> str:
    """A page made of a template; the browser reads it again after ``refresh`` seconds."""
    return _environment().get_template(template).render(title=title, refresh=refresh, **values)


def curve_groups(metrics: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Which of the known series a run has, by panel."""
    # Not every line has every objective: a batch may have no label for one.
    there = dict.fromkeys(name for line in metrics for name in line)
    groups = {}
    for title, (names, family) in CURVES.items():
        found = [name for name in names if name in there]
        if family:
            found += [n for n in there if n.startswith(family) and not n.startswith(OTHERS)]
        if found:
            groups[title] = found
    return groups


def render(folder: Path, content: Content, *, running: bool) -> str:
    """``report.html``: a training run on one page.

    Its record and metrics are read from ``folder``. While it is ``running`` more will come, and the
    browser reads the page again every minute.
    """
    record = read_record(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    log_dir = record.get("args", {}).get("log_dir")
    path = (Path(log_dir).expanduser() if log_dir else folder) / METRICS_FILE
    lines = read_json_lines(path) if path.is_file() else []
    if wrong := misfit(lines, [dict]):
        raise UserError(f"{path}: {wrong}")
    metrics = [line for line in lines if any(key.startswith("train/") for key in line)]
    metrics = metrics[:: max(1, len(metrics) // MOST_POINTS)]
    latest = content.latest
    is_sampled = bool(latest.responses) and latest.responses[0]["log_ratio"] is not None
    groups = curve_groups(metrics)
    return _rendered(
        "report.html",
        f"{tables.fronts_title([latest.result])} ({folder.name})",
        refresh=REFRESH_SECONDS if running else None,
        latest=latest,
        answers=_answers(latest, is_sampled),
        is_sampled=is_sampled,
        content=content,
        folded_table=folded_table,
        curves=picture_bytes(pictures.curves(metrics, groups)) if groups else None,
        record=record,
        point=tables.point_text(latest.result.reference_point),
    )


def _answers(evaluation: Evaluation, is_sampled: bool) -> list[dict[str, Any]]:
    """A table for each of a few prompts, with answers at λ spread over the grid."""
    names, found = evaluation.objectives, []
    for prompt in dict.fromkeys(row["prompt"] for row in evaluation.responses):
        mine = spread([row for row in evaluation.responses if row["prompt"] == prompt], ANSWERS)
        rewards = names if mine[0]["rewards"] else ()
        columns = [f"λ ({', '.join(names)})", "answer", *rewards, *["log π/π_ref"] * is_sampled]
        rows = [
            [tables.vector_text(row["preference"]), row["response"], *row["rewards"]]
            + [row["log_ratio"]] * is_sampled
            for row in mine
        ]
        found.append({"title": without_template(prompt), "columns": columns, "rows": rows})
    return found


def comparison_page(comparison: FrontComparison, picture: bytes, command: str) -> str:
    """The page of a comparison, with the PNG of its fronts and the command that made it."""
    heads = [f"{NO_BREAK}".join(name.rsplit(" ", 1)) for name in INDICATORS.values()]
    spearman = [f"Spearman {name}, its{NO_BREAK}λ" for name in comparison.objectives]
    rows = []
    for run in comparison.runs:
        ratio = run.hypervolume_over_baseline
        first, *others = tables.indicator_texts(run)
        times = "" if ratio is None else f"{ratio:.3f}"
        rows.append([run.label, str(len(run.points)), first, times, *others])
    return _rendered(
        "compare.html",
        tables.fronts_title(comparison.runs),
        picture=picture,
        comparison=comparison,
        tables=tables,
        heads=["run", "points", heads[0], "÷ baseline’s", *heads[1:], *spearman],
        rows=rows,
        command=command,
    )
