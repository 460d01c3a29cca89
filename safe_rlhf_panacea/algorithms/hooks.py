"""What the Panacea trainers have in common beside the component: λ named, front, checkpoints."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.algorithms.panacea import Panacea, snapshot_folder
from safe_rlhf_panacea.algorithms.watching import FrontWatch
from safe_rlhf_panacea.base import TrainingState


class PanaceaHooks:
    """Stands before a trainer among the bases of a Panacea trainer.

    The trainer has ``panacea`` before its models are loaded, and says in ``measure_front`` what
    its front is.
    """

    panacea: Panacea

    def init_logger(self) -> None:
        """With what shows the front."""
        super().init_logger()
        self.watch = FrontWatch(self)

    def train(self) -> None:
        """Train, and show the last front as well."""
        super().train()
        self.watch.finish(self.eval)

    def about_batch(self) -> str:
        """The batch's λ, or the mean of its rows'."""
        return f"λ {self.panacea.describe_latest()}"

    def eval(self) -> dict[str, Any]:
        """The base's evaluation, then the front."""
        return self.watch.evaluate(super().eval)

    # -- checkpoints ------------------------------------------------------------------

    def training_state(self) -> TrainingState:
        """With the component's."""
        state = super().training_state()
        state.panacea = self.panacea.state_dict()
        return state

    def restore(self, state: TrainingState) -> None:
        """With the component's."""
        super().restore(state)
        self.panacea.load_state_dict(state.panacea)

    def save_checkpoint(self) -> None:
        """With the adapter as it is now, ready to be loaded and evaluated."""
        super().save_checkpoint()
        self.panacea.save(self.tokenizer, snapshot_folder(self.args.output_dir, self.global_step))

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write the adapter and the tokenizer; the base model stays where it is."""
        del model, ds_config
        self.panacea.save(self.tokenizer, self.args.output_dir)
        self.logger.print(f'Saved the adapter to "{self.args.output_dir}".')
