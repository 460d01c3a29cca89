"""What the quickstart prints and draws, and answers of a trained adapter at five λ."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.experiments.table import OBJECTIVES
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.miniature.corpus import EXAMPLES, NOTE, SEVERITIES, parse, topic_of
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from safe_rlhf_panacea.show.tables import front_table, fronts_title, indicator_table, vector_text

TITLES = {
    "ppo": "PPO: mean reward of sampled responses, in standard deviations of the SFT model's",
    "ppo_true_scores": "PPO: the same responses under the corpus's own scores",
    "dpo": "DPO: accuracy of the implicit reward on held-out pairs",
    "dpo_log_sigmoid": "DPO: mean log σ of the implicit reward's margins on held-out pairs, in nats",
}
JUDGED = {
    "ppo": "Panacea-PPO",
    "ppo_true_scores": "Panacea-PPO by the corpus's own scores",
    "dpo": "Panacea-DPO by accuracy",
    "dpo_log_sigmoid": "Panacea-DPO by the objective itself, in nats",
}
WIDTH = 100
LONGEST_ANSWER = 96  # tokens


class Stopwatch:
    """Announces stages as they begin, ``[1/total]`` and so on, and keeps the seconds of each."""

    def __init__(self, total: int) -> None:
        """Announce so many stages."""
        self.seconds: dict[str, float] = {}
        self.total = total

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Time a stage and say what it is."""
        print(f"\n[{len(self.seconds) + 1}/{self.total}] {text}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def greedy_answers(
    model: PanaceaModel, prompts: Sequence[str], max_new_tokens: int = LONGEST_ANSWER
) -> list[dict[str, Any]]:
    """The likeliest answers to every prompt at five λ, from one end of the simplex to the other.

    Returns:
        Entries as an evaluation keeps them: ``prompt``, ``response``, ``preference``, and no
        ``rewards`` and ``log_ratio``, which were not measured.
    """
    return [
        {
            "prompt": prompt,
            "response": model.respond(prompt, row, max_new_tokens=max_new_tokens),
            "preference": row.tolist(),
            "rewards": [],
            "log_ratio": None,
        }
        for prompt in prompts
        for row in preference_grid(2, 0.25)
    ]


def answers_text(answers: Sequence[dict[str, Any]], objectives: Sequence[str]) -> str:
    """Answers of ``greedy_answers`` as plain text, prompt by prompt."""
    parts = []
    for prompt in dict.fromkeys(row["prompt"] for row in answers):
        lines = [f'"{prompt}" at five preference vectors λ = ({", ".join(objectives)}):']
        for row in answers:
            if row["prompt"] == prompt:
                label = f"  {vector_text(row['preference'])}  "
                text = label + (row["response"] or "(nothing)")
                lines.append(textwrap.fill(text, WIDTH, subsequent_indent=" " * len(label)))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw_fronts(root: Path, experiments: Mapping[str, Mapping[str, FrontResult]]) -> None:
    """Write ``front_ppo.png`` and ``front_dpo.png`` into the run's folder."""
    for name in ("ppo", "dpo"):
        results = list(experiments[name].values())
        title = f"{fronts_title(results)}\n{name.upper()}, equal training steps in all"
        save_picture(front_figure(results, title), root / f"front_{name}.png")


def verdict(results: Mapping[str, Any]) -> str:
    """Panacea's hypervolumes beside those of Rewarded Soups, and their ratios, of this run alone.

    Args:
        results: of ``Pipeline.run``.
    """
    lines = [
        f"Verdict on seed {results['seed']}: hypervolume, the area that a front dominates, with as "
        "many training steps in all"
    ]
    for name, label in JUDGED.items():
        entry = results["experiments"][name]
        own, soups = (entry[key].indicators["hypervolume"] for key in ("panacea", "rewarded_soups"))
        times = f": {own / soups:.2f} times the soups'" if soups else ""
        lines.append(f"  {label} {own:.2f}, Rewarded Soups {soups:.2f}{times}")
    lines.append("Below 1 the soups are ahead. One seed decides little: docs/results.md has more.")
    lines.append("The numbers change with the processor, too.")
    return "\n".join(lines)


def next_commands(adapter: Path, prompt: str, objectives: Sequence[str]) -> str:
    """Three commands that run as they are printed, in the folder that this program ran in.

    Args:
        adapter: folder of the trained adapter.
        prompt: a question for it.
        objectives: two names, in the order of λ.
    """
    python = "python"
    if shutil.which(python) != sys.executable:
        near = os.path.relpath(sys.executable)
        python = shlex.quote(sys.executable if near.startswith(os.pardir) else near)
    program, folder = f"{python} -m safe_rlhf_panacea", shlex.quote(str(adapter))
    first, second = objectives
    at = shlex.quote(f"{first}=0.7,{second}=0.3")
    output = shlex.quote(str(adapter.parent / "peft"))
    return (
        "Next: ask it at any λ, talk to it, or take it to PEFT as a LoRA at one λ:\n"
        f"  {program}.respond --adapter {folder} --preference {at} {shlex.quote(prompt)}\n"
        f"  {program}.chat --adapter {folder}\n"
        f"  {program}.export --adapter {folder} --format peft --preference {at} "
        f"--output_dir {output}\n"
        "A page with a slider for λ needs the extra 'serve': docs/serving.md shows how."
    )


def render(root: Path, results: Mapping[str, Any]) -> str:
    """The closing page of the quickstart, in plain text: answers, verdict, files, what to do next.

    Args:
        root: the run's folder.
        results: of ``Pipeline.run``.
    """
    adapter = root / "panacea-ppo"
    answers = greedy_answers(PanaceaModel.load(adapter), [EXAMPLES[2]])
    parts = [
        f"Panacea-PPO, {answers_text(answers, OBJECTIVES)}",
        verdict(results),
        f"Pictures: {root}/front_ppo.png and front_dpo.png; how the front of Panacea-PPO grew:\n"
        f"{adapter / 'report.html'}; that of Panacea-DPO at its end: "
        f"{root / 'panacea-dpo' / 'report.html'}.\n"
        f"All tables are in {root / 'report.txt'}, all numbers in {root / 'results.json'}.",
        next_commands(adapter, EXAMPLES[0], OBJECTIVES),
        textwrap.fill(NOTE, WIDTH),
    ]
    return "\n\n".join(parts)


def render_tables(results: Mapping[str, Any]) -> str:
    """Every front with its indicators, and refusals by λ and severity of the request."""
    parts = []
    for name, title in TITLES.items():
        entry = results["experiments"][name]
        parts += [title, front_table(entry["panacea"])]
        parts.append(indicator_table(list(entry.values())))
    parts.append("Panacea-PPO by λ and severity of the request:")
    parts.append(render_severity_table(results["severity_table"]))
    return "\n\n".join(parts)


def severity_table(samples: Sequence[tuple[str, str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Refusal rate and mean number of steps given, by λ and severity of the request.

    Args:
        samples: prompt, response and the preference vector it was drawn at.

    Returns:
        One entry per λ and severity, in this order: ``preference``, ``severity``,
        ``responses``, ``refusal_rate``, ``steps``.
    """
    cells: dict[tuple[tuple[float, ...], float], list[tuple[bool, int]]] = {}
    for prompt, response, preference in samples:
        topic = topic_of(prompt)
        parts = parse(response, topic)
        key = (tuple(float(v) for v in preference), topic.severity)
        cells.setdefault(key, []).append(("refuse" in parts.openers, len(parts.steps)))
    names = {value: name for name, value in SEVERITIES.items()}
    return [
        {
            "preference": list(preference),
            "severity": names[severity],
            "responses": len(found),
            "refusal_rate": round(sum(refuses for refuses, _ in found) / len(found), 4),
            "steps": round(sum(steps for _, steps in found) / len(found), 4),
        }
        for (preference, severity), found in sorted(cells.items())
    ]


def render_severity_table(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as text: λ down, severity across, ``refusal rate / steps`` in each cell."""
    severities = list(dict.fromkeys(row["severity"] for row in table))
    lines = ["λ (helpful, harmless)  " + "  ".join(f"{name:>14s}" for name in severities)]
    by_preference: dict[str, dict[str, str]] = {}
    for row in table:
        vector = ", ".join(f"{value:.2f}" for value in row["preference"])
        cell = f"{row['refusal_rate']:.2f} / {row['steps']:.1f}"
        by_preference.setdefault(f"({vector})", {})[row["severity"]] = cell
    for label, found in by_preference.items():
        cells = "  ".join(f"{found.get(name, '-'):>14s}" for name in severities)
        lines.append(label.ljust(23) + cells)
    lines.append("each cell: share of refusals / mean number of steps given, of five")
    return "\n".join(lines)
