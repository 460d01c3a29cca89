"""What every Panacea trainer holds: the front on the way, λ in checkpoints, the adapter saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.algorithms.evaluating import FrontEvaluator, FrontTrainer
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.base.part import Part
from safe_rlhf_panacea.distributed import barrier, is_main_process
from safe_rlhf_panacea.runs.divergence import check_weights


class PanaceaPart(Part):
    """Joins a trainer that has a ``Panacea`` component and a ``measure_front``.

    Attributes:
        evaluator: evaluates and shows the front; there once the logger is open.
    """

    trainer: FrontTrainer
    evaluator: FrontEvaluator

    def __init__(self, trainer: FrontTrainer) -> None:
        """Hold on to the trainer, which has its component already."""
        self.trainer, self.panacea = trainer, trainer.panacea
        self.panacea.source.run_progress = lambda: trainer.global_step / trainer.total_steps

    def about(self) -> dict[str, Any]:
        """How much of the policy the adapter reaches."""
        return {"adapted_share": round(self.panacea.coverage.share, 4)}

    def opened(self) -> None:
        """Say which weights get no adapter, and open what shows the front."""
        if self.panacea.coverage.note:
            self.trainer.logger.print(self.panacea.coverage.note)
        self.evaluator = FrontEvaluator(self.trainer)

    def evaluate(self, base: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The base's evaluation, then the front."""
        return self.evaluator.evaluate(base)

    def trained(self) -> None:
        """Show the last front as well."""
        self.evaluator.finish(self.trainer.eval)

    def about_batch(self) -> str:
        """The batch's λ, or the mean of its rows'."""
        return f"λ {self.panacea.describe_latest()}"

    def state_dict(self) -> dict[str, Any]:
        """λ's stream, the ideal point and the bases, for an exact resume."""
        return self.panacea.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.panacea.load_state_dict(state)

    def checkpointed(self) -> None:
        """Write the adapter as it is now, ready to be loaded and evaluated."""
        trainer = self.trainer
        folder = adapter_checkpoint(trainer.args.output_dir, trainer.global_step)
        self._write(trainer.tokenizer, folder)

    def save(self) -> bool:
        """Write the adapter and the tokenizer; the base model stays where it is."""
        trainer = self.trainer
        self._write(trainer.tokenizer, trainer.args.output_dir)
        trainer.logger.print(f'Saved the adapter to "{trainer.args.output_dir}".')
        return True

    def _write(self, tokenizer: Any, folder: str | Path) -> None:
        """Write the policy's adapter and the tokenizer once, whole also under ZeRO 3.

        Raises:
            DivergedError: a weight is not finite.
        """
        policy = self.panacea.policy
        check_weights(policy.named_parameters().items(), f"the adapter of {folder}")
        with gathered(policy.parameters()):
            if is_main_process():
                policy.save(folder)
                self.panacea.template.keep(tokenizer)
                tokenizer.save_pretrained(folder)
        barrier()


def adapter_checkpoint(output_dir: str | Path, step: int) -> Path:
    """Where a run keeps the adapter of one of its checkpoints."""
    return Path(output_dir) / "checkpoints" / "adapter" / f"step-{step}"
