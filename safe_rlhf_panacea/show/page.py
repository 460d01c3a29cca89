"""``report.html``: a run on one page that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.datasets.safe_rlhf_template import without_template
from safe_rlhf_panacea.base.run_record import METRICS_FILE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.io import read_json, read_json_lines
from safe_rlhf_panacea.run_folder import RUN_FILE
from safe_rlhf_panacea.shapes import misfit
from safe_rlhf_panacea.show import pictures
from safe_rlhf_panacea.show.content import Content
from safe_rlhf_panacea.show.html import image, page
from safe_rlhf_panacea.show.plots import spread
from safe_rlhf_panacea.show.tables import meanings_html, table_html, vector_text
from safe_rlhf_panacea.show.titles import fronts_title

REFRESH_SECONDS = 60
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
SECTIONS = (
    ("front/now", "The front now", "front/points"),
    ("front/so_far", "The growing front", None),
    ("front/indicators", "Indicators", "front/indicators"),
    ("front/distributions", "Distributions by λ", None),
    ("front/kl", "Distance from the initial model by λ", None),
    ("singular/by_matrix", "Learnt singular values", "singular/by_matrix"),
    ("preferences/drawn", "λ drawn in training", None),
)
OVER_TIME = ("front/so_far", "front/indicators")  # nothing to see of one evaluation
ANSWERS = 5  # λ of which a prompt's answers are shown
SAMPLED = (
    "Sampled as they are for the front, with the log-probability over the initial model's. "
    "Asked with respond or on the page, the model gives its likeliest answer instead."
)


def read_metrics(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Training's lines of ``metrics.jsonl``, thinned to what a curve can show."""
    log_dir = record.get("args", {}).get("log_dir")
    path = (Path(log_dir).expanduser() if log_dir else folder) / METRICS_FILE
    lines = read_json_lines(path) if path.is_file() else []
    if wrong := misfit(lines, [dict]):
        raise UserError(f"{path}: {wrong}")
    training = [line for line in lines if any(key.startswith("train/") for key in line)]
    return training[:: max(1, len(training) // MOST_POINTS)]


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


def answers_section(evaluation: Evaluation) -> str:
    """A few prompts with answers at λ spread over the grid; all but the first folded."""
    names = evaluation.objectives
    is_sampled = evaluation.responses[0]["log_ratio"] is not None
    parts = [f"<section><h2>Answers at step {evaluation.step}</h2>"]
    for index, prompt in enumerate(dict.fromkeys(r["prompt"] for r in evaluation.responses)):
        mine = spread([r for r in evaluation.responses if r["prompt"] == prompt], ANSWERS)
        rewards = names if mine[0]["rewards"] else []
        head = [f"λ ({', '.join(names)})", "answer", *rewards, *["log π/π_ref"] * is_sampled]
        rows = [
            [vector_text(r["preference"]), r["response"], *r["rewards"]]
            + [r["log_ratio"]] * is_sampled
            for r in mine
        ]
        title = escape(without_template(prompt))
        table = table_html(head, rows, kind="answers")
        opened = "" if index else " open"
        parts.append(f"<details{opened}><summary>{title}</summary>{table}</details>")
    if is_sampled:
        parts.append(f'<p class="says">{SAMPLED}</p>')
    return "\n".join([*parts, "</section>"])


def _about(record: dict[str, Any], content: Content) -> str:
    commit = (record.get("git") or {}).get("commit")
    latest = content.latest
    facts = {
        "program": record.get("program"),
        "started": record.get("started_at"),
        "commit": commit,
        "objectives": ", ".join(latest.objectives),
        "evaluations": f"{len(content.evaluations)}, the latest at step {latest.step}",
        "reference point": ", ".join(f"{v:g}" for v in latest.result["reference_point"]),
    }
    rows = [f"<tr><th>{k}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items() if v]
    return (
        f'<section><h2>The run</h2><div class="wide"><table>{"".join(rows)}</table></div></section>'
    )


def render(folder: Path, content: Content, *, running: bool) -> str:
    """The page.

    Args:
        folder: the run's; its record and metrics are read.
        content: what there is to show.
        running: whether more will come: the browser then reads the page again every minute.
    """
    record = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    latest, is_first = content.latest, len(content.evaluations) == 1
    parts = [answers_section(latest)] if latest.responses else []
    for name, title, rows in SECTIONS:
        is_drawn = name in content.pictures and not (is_first and name in OVER_TIME)
        if not is_drawn and rows is None:
            continue
        parts.append(f"<section><h2>{title}</h2>")
        if is_drawn:
            parts.append(image(content.pictures[name], title))
        if rows is not None:
            parts.append(content.tables[rows].html())
        if name == "front/indicators":
            parts.append(meanings_html())
        parts.append("</section>")
    metrics = read_metrics(folder, record)
    groups = curve_groups(metrics)
    if groups:
        drawn = image(pictures.curves(metrics, groups), "training curves")
        parts.append(f"<section><h2>Training</h2>{drawn}</section>")
    parts.append(_about(record, content))
    refresh = REFRESH_SECONDS if running else None
    title = f"{fronts_title([latest.result])} ({folder.name})"
    return page(title, parts, refresh_seconds=refresh)
