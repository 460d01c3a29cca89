"""What a trained adapter answers at five λ, for those who look at a run for the first time."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.show.tables import vector_text

WIDTH = 100
LONGEST_ANSWER = 96  # tokens


def greedy_answers(
    model: PanaceaModel, prompts: Sequence[str], max_new_tokens: int = LONGEST_ANSWER
) -> list[dict[str, Any]]:
    """The likeliest answers to every prompt at five λ, from one end of the simplex to the other.

    Args:
        model: with an adapter for two objectives.
        prompts: to ask.
        max_new_tokens: longest answer.

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
            if row["prompt"] != prompt:
                continue
            label = f"  {vector_text(row['preference'])}  "
            text = label + (row["response"] or "(nothing)")
            lines.append(textwrap.fill(text, WIDTH, subsequent_indent=" " * len(label)))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
