"""What ``make small`` prints at its end."""

from __future__ import annotations

import textwrap
from pathlib import Path

from safe_rlhf_panacea.examples import Examples
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.miniature.answers import WIDTH, answers_text, greedy_answers
from safe_rlhf_panacea.miniature.report import next_commands
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.show.tables import front_table, indicator_table

ASKED = 2  # prompts whose answers are shown


def render(root: Path, result: FrontResult, examples: Examples, longest: int) -> str:
    """The closing page, in plain text: answers, front, files, what to do next.

    Args:
        root: the run's folder.
        result: of the evaluation.
        examples: prompts that were held out, and what the model is.
        longest: tokens of an answer.
    """
    adapter = root / "panacea-grpo"
    answers = greedy_answers(PanaceaModel.load(adapter), examples.prompts[:ASKED], longest)
    base = ", ".join(f"{value:.2f}" for value in result.base.objectives)
    names = ", ".join(result.objectives)
    spearman = ", ".join(f"{value:.2f}" for value in result.indicators["spearman"])
    parts = [
        answers_text(answers, result.objectives),
        "Panacea-GRPO on prompts of topics that it was not trained on, mean rewards:",
        front_table(result),
        indicator_table([result]),
        f"The initial model reaches ({base}). Spearman of J and λ ({names}): {spearman}.\n"
        "The numbers change with the seed and with the processor.",
        f"Pictures: {root / 'evaluation' / 'front.png'}; how the front grew:\n"
        f"{adapter / 'report.html'}. All numbers are in {root / 'results.json'}.",
        next_commands(adapter, examples.prompts[-1], result.objectives),
        textwrap.fill(examples.note, WIDTH),
    ]
    return "\n\n".join(parts)
