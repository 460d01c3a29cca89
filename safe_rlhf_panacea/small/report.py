"""What ``make small`` prints at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.fronts.results import front_of
from safe_rlhf_panacea.miniature.report import five_answers
from safe_rlhf_panacea.show.tables import front_table, indicator_table

EXAMPLES = 2  # prompts whose answers are shown


def render(root: Path, result: dict[str, Any], responses: Sequence[dict[str, Any]]) -> str:
    """The closing page, in plain text.

    Args:
        root: the run's folder.
        result: of the evaluation.
        responses: to every held-out prompt, at every λ.
    """
    trained = [row for row in responses if row["preference"]]  # the initial model's have no λ
    base = ", ".join(f"{value:.2f}" for value in result["base"]["objectives"])
    names = ", ".join(result["objectives"])
    spearman = ", ".join(f"{value:.2f}" for value in result["spearman"])
    parts = [
        "Panacea-GRPO on prompts of topics that it was not trained on, mean rewards:",
        front_table(front_of(result)),
        indicator_table({result["label"]: result}),
        f"The initial model reaches ({base}). Spearman of J and λ ({names}): {spearman}.",
    ]
    prompts = list(dict.fromkeys(row["prompt"] for row in trained))
    chosen = prompts[:: max(1, len(prompts) // EXAMPLES)][:EXAMPLES]
    parts += [five_answers(trained, prompt, result["objectives"]) for prompt in chosen]
    adapter = root / "panacea-grpo"
    parts.append(
        f"Everything is in {root}: results.json, evaluation/front.png,\n"
        f"{adapter / 'report.html'}, which shows how the front grew."
    )
    parts.append(
        "Next, ask it yourself, at any λ:\n"
        f"  python -m safe_rlhf_panacea.respond --adapter {adapter} \\\n"
        f'    --preference positive=0.3,concise=0.7 "What do you think of rainy days?"'
    )
    return "\n\n".join(parts)
