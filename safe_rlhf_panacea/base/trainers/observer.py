"""Looking on while a trainer works."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.base.trainers.rollout import Rollout


class Observer:
    """Is told what a trainer does and changes nothing; ``TrainerBase.observers`` holds them."""

    def rolled_out(self, rl_batch: Rollout) -> None:
        """A micro-batch of reinforcement learning was rolled out and scored."""

    def stepped(self, info: dict[str, Any], engines: dict[str, Any]) -> None:
        """A training step was taken.

        Args:
            info: what is logged of it.
            engines: name to engine, of all that train.
        """
