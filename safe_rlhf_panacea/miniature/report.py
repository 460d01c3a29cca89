"""What the quickstart prints and draws at its end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.experiments.settings import OBJECTIVES
from safe_rlhf_panacea.miniature.answers import WIDTH, answers_text, greedy_answers
from safe_rlhf_panacea.miniature.fronts import Results
from safe_rlhf_panacea.miniature.severity_table import render_severity_table
from safe_rlhf_panacea.miniature.topics import EXAMPLES, NOTE
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from safe_rlhf_panacea.show.tables import front_table, fronts_title, indicator_table

TITLES = {
    "ppo": "PPO: mean reward of sampled responses, in standard deviations of the SFT model's",
    "ppo_true_scores": "PPO: the same responses under the corpus's own scores",
    "dpo": "DPO: accuracy of the implicit reward on held-out pairs",
}
JUDGED = {
    "ppo": "Panacea-PPO",
    "ppo_true_scores": "Panacea-PPO by the corpus's own scores",
    "dpo": "Panacea-DPO",
}
ASKED = EXAMPLES[2]  # what is answered at five λ


def draw_fronts(root: Path, experiments: dict[str, Results]) -> None:
    """``front_ppo.png`` and ``front_dpo.png``."""
    for name in ("ppo", "dpo"):
        results = list(experiments[name].values())
        title = f"{fronts_title(results)}\n{name.upper()}, equal training steps in all"
        save_picture(front_figure(results, title), root / f"front_{name}.png")


def verdict(results: Mapping[str, Any]) -> str:
    """Hypervolumes of Panacea over those of Rewarded Soups, of this run alone.

    Args:
        results: of ``Pipeline.results``.
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


def python_command() -> str:
    """How a shell calls this Python: ``python``, or the path of one that is not the first there."""
    if shutil.which("python") == sys.executable:
        return "python"
    near = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if near.startswith(os.pardir) else near)


def next_commands(adapter: Path, prompt: str, objectives: Sequence[str]) -> str:
    """Three commands that run as they are printed, in the folder that this program ran in.

    Args:
        adapter: folder of the trained adapter.
        prompt: a question for it.
        objectives: names, in the order of λ.
    """
    program, folder = f"{python_command()} -m safe_rlhf_panacea", shlex.quote(str(adapter))
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
        results: of ``Pipeline.results``.
    """
    adapter = root / "panacea-ppo"
    answers = greedy_answers(PanaceaModel.load(adapter), [ASKED])
    files = (
        f"Pictures: {root}/front_ppo.png and front_dpo.png; how the front of Panacea-PPO grew:\n"
        f"{adapter / 'report.html'}; that of Panacea-DPO at its end: "
        f"{root / 'panacea-dpo' / 'report.html'}.\n"
        f"All tables are in {root / 'report.txt'}, all numbers in {root / 'results.json'}."
    )
    return "\n\n".join(
        [
            f"Panacea-PPO, {answers_text(answers, OBJECTIVES)}",
            verdict(results),
            files,
            next_commands(adapter, EXAMPLES[0], OBJECTIVES),
            textwrap.fill(NOTE, WIDTH),
        ]
    )


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
