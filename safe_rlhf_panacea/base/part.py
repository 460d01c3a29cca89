"""What joins a trainer's evaluations, checkpoints and saving, and what only looks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_rlhf_panacea.base.rl_data import Rollout


class Part:
    """Is called by its trainer at the moments below; this one does nothing.

    The port's trainers and the hooked ones of Safe-RLHF hold one as ``part``; only the port has
    checkpoints.

    Attributes:
        ahead: how many prompt batches the trainer takes before the one whose responses it uses, so
            that ``ask`` can ask for them; None: it takes them one by one and does not ask.
    """

    ahead: int | None = None

    def about(self) -> dict[str, Any]:
        """What the run's record says of the part."""
        return {}

    def opened(self) -> None:
        """The output folder is claimed and the logger open."""

    def evaluate(self, base: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Evaluate; ``base`` is the trainer's own evaluation."""
        return base()

    def trained(self) -> None:
        """The last step was taken."""

    def about_batch(self) -> str:
        """What an error says of the batch of the present step."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to ``state_dict``."""

    def streams(self) -> dict[str, Any]:
        """The entries of ``state_dict`` that ``ask`` changes."""
        return {}

    def ask(self, batches: list[dict[str, Any]]) -> None:
        """Ask for the responses to the micro-batches of a prompt batch."""

    def checkpointed(self) -> None:
        """A checkpoint was written."""

    def save(self) -> bool:
        """Save in the trainer's place; True if that was done."""
        return False


class Observer:
    """Is told what a trainer does and changes nothing; ``TrainerBase.observers`` holds them."""

    def rolled_out(self, rl_batch: Rollout) -> None:
        """A micro-batch of reinforcement learning was rolled out and scored."""

    def stepped(self, info: dict[str, Any], engines: dict[str, Any]) -> None:
        """A step was taken; ``info`` is logged of it, ``engines`` are all that train, by name."""
