"""What the quickstart prints and draws at its end."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.experiments.settings import OBJECTIVES
from safe_rlhf_panacea.fronts.results import front_of
from safe_rlhf_panacea.miniature.fronts import Results
from safe_rlhf_panacea.miniature.severity_table import pick_example_prompt, render_severity_table
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.show.plots import plot_fronts
from safe_rlhf_panacea.show.tables import front_table, indicator_table

TITLES = {
    "ppo": "PPO: mean reward of sampled responses, in standard deviations of the SFT model's",
    "ppo_true_scores": "PPO: the same responses under the corpus's own scores",
    "dpo": "DPO: accuracy of the implicit reward on held-out pairs",
}


def draw_fronts(root: Path, experiments: dict[str, Results]) -> None:
    """``front_ppo.png`` and ``front_dpo.png``."""
    for name in ("ppo", "dpo"):
        results = list(experiments[name].values())
        plot_fronts(
            list(map(front_of, results)),
            root / f"front_{name}.png",
            title=f"Panacea-{name.upper()} and Rewarded Soups at equal training steps",
            reference_point=results[0]["reference_point"],
            axis_labels=results[0]["axis_labels"],
        )


def five_answers(
    responses: Sequence[dict[str, Any]], prompt: str, objectives: Sequence[str] = OBJECTIVES
) -> str:
    """One prompt answered at five λ spread over the grid."""
    mine = (r for r in responses if r["prompt"] == prompt)
    found = sorted(mine, key=lambda r: r["preference"])
    steps = max(1, (len(found) - 1) / 4)
    chosen = [found[round(i * steps)] for i in range(5) if round(i * steps) < len(found)]
    lines = [f'"{prompt}" at {len(chosen)} preference vectors ({", ".join(objectives)}):']
    for response in chosen:
        vector = ", ".join(f"{value:.2f}" for value in response["preference"])
        text = textwrap.fill(response["response"], 88, subsequent_indent=" " * 16)
        lines.append(f"  ({vector})  {text}")
    return "\n".join(lines)


def render(
    miniature: Miniature,
    responses: Sequence[dict[str, Any]],
    results: dict[str, Any],
) -> str:
    """The closing page of the quickstart, in plain text."""
    parts = []
    for name, title in TITLES.items():
        entry = results["experiments"][name]
        parts += [title, front_table(front_of(entry["panacea"]))]
        parts.append(indicator_table({result["label"]: result for result in entry.values()}))
    parts.append("Panacea-PPO by λ and severity of the request:")
    parts.append(render_severity_table(results["severity_table"]))
    prompt = pick_example_prompt(sorted({r["prompt"] for r in responses}))
    parts.append(five_answers(responses, prompt))
    root = miniature.root
    parts.append(
        f"Everything is in {root}: results.json, front_ppo.png, front_dpo.png,\n"
        f"the adapters (panacea-ppo/, panacea-dpo/) and the log of every stage (metrics.jsonl);\n"
        f"{root / 'panacea-ppo' / 'report.html'} shows how Panacea-PPO's front grew."
    )
    parts.append(
        "Next, ask the trained model yourself, at any λ:\n"
        f"  python -m safe_rlhf_panacea.respond --adapter {root / 'panacea-ppo'} \\\n"
        f'    --preference helpful=0.3,harmless=0.7 "{prompt}"'
    )
    return "\n\n".join(parts)
