"""What the quickstart prints and draws, and answers of a trained adapter at five λ."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from safe_rlhf_panacea.experiments.table import OBJECTIVES
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.miniature.corpus import EXAMPLES, NOTE, SEVERITIES, parse, topic_of
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from safe_rlhf_panacea.show.tables import (
    align,
    front_table,
    fronts_title,
    indicator_table,
    vector_text,
)

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

    Returns entries as an evaluation keeps them: ``prompt``, ``response``, ``preference``, and no
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
    parts: dict[str, list[str]] = {}
    for row in answers:
        head = f'"{row["prompt"]}" at five preference vectors λ = ({", ".join(objectives)}):'
        label = f"  {vector_text(row['preference'])}  "
        text = label + (row["response"] or "(nothing)")
        lines = parts.setdefault(row["prompt"], [head])
        lines.append(textwrap.fill(text, WIDTH, subsequent_indent=" " * len(label)))
    return "\n\n".join(map("\n".join, parts.values()))


def draw_fronts(root: Path, experiments: Mapping[str, Mapping[str, FrontResult]]) -> None:
    """Write ``front_ppo.png`` and ``front_dpo.png`` into the run's folder."""
    for name in ("ppo", "dpo"):
        results = list(experiments[name].values())
        title = f"{fronts_title(results)}\n{name.upper()}, equal training steps in all"
        save_picture(front_figure(results, title), root / f"front_{name}.png")


def next_commands(adapter: Path, prompt: str, objectives: Sequence[str]) -> str:
    """Three commands for a trained adapter that run as they are printed, in this folder.

    ``prompt`` is a question for it; ``objectives`` are two names, in the order of λ.
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


def render(template: str, root: Path, results: Mapping[str, Any]) -> str:
    """A template of this folder, ``page`` or ``tables``, in plain text.

    ``root`` is the run's folder, and ``results`` are those of ``Pipeline.run``.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    adapter = root / "panacea-ppo"
    environment.globals |= {
        "root": root,
        "adapter": adapter,
        "answers": lambda: answers_text(
            greedy_answers(PanaceaModel.load(adapter), [EXAMPLES[2]]), OBJECTIVES
        ),
        "next_commands": lambda: next_commands(adapter, EXAMPLES[0], OBJECTIVES),
        "note": textwrap.fill(NOTE, WIDTH),
        "front_table": front_table,
        "indicator_table": indicator_table,
        "severity_text": severity_text,
    }
    return environment.get_template(f"{template}.txt.jinja").render(results)


def severity_table(responses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Refusal rate and mean number of steps given, by λ and severity of the request.

    ``responses`` have ``prompt``, ``response`` and the ``preference`` they were drawn at. Returns
    an entry per λ and severity, in this order: ``preference``, ``severity``, ``responses``,
    ``refusal_rate``, ``steps``.
    """
    cells: dict[tuple[tuple[float, ...], float], list[tuple[bool, int]]] = defaultdict(list)
    for row in responses:
        topic = topic_of(row["prompt"])
        parts = parse(row["response"], topic)
        key = (tuple(map(float, row["preference"])), topic.severity)
        cells[key].append(("refuse" in parts.openers, len(parts.steps)))
    names = {value: name for name, value in SEVERITIES.items()}
    return [
        {
            "preference": list(preference),
            "severity": names[severity],
            "responses": len(found),
            "refusal_rate": round(fmean(refuses for refuses, _ in found), 4),
            "steps": round(fmean(steps for _, steps in found), 4),
        }
        for (preference, severity), found in sorted(cells.items())
    ]


def severity_text(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as text: λ down, severity across, ``refusal rate / steps`` in each cell."""
    severities = list(dict.fromkeys(row["severity"] for row in table))
    cells: dict[str, dict[str, str]] = {}
    for row in table:
        cell = f"{row['refusal_rate']:.2f} / {row['steps']:.1f}"
        cells.setdefault(vector_text(row["preference"]), {})[row["severity"]] = cell
    rows = [
        [label, *(found.get(name, "-") for name in severities)] for label, found in cells.items()
    ]
    return (
        f"{align([['λ (helpful, harmless)', *severities], *rows])}\n"
        "each cell: share of refusals / mean number of steps given, of five"
    )
