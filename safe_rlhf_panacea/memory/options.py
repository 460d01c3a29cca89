"""The options of this program: a training's, in the training programs' names, and the cards."""

from __future__ import annotations

from typing import ClassVar, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import Options, configuration, option
from safe_rlhf_panacea.errors import UserError


@configuration
class PlannedModels(Options):
    """The models of the training."""

    model: str = option(text="folder or hub name", kind=kinds.filled, required=True)
    algorithm: Literal["dpo", "ppo", "grpo", "sft"] = option(required=True)
    objectives: int = option(2, "m", kind=kinds.positive_int)
    reward_models: tuple[tuple[str, str], ...] | None = option(
        text="default: for each objective a model of the policy's size; functions cost nothing",
        kind=kinds.named_value,
        metavar="NAME=PATH",
    )
    trust_remote_code: bool = option(False, "run code that comes with a model")


@configuration
class PlannedTraining(Options):
    """What the training does."""

    GROUP: ClassVar[str] = "training, in the training programs' names"

    max_length: int = option(512, "tokens in a sequence", kind=kinds.positive_int)
    mean_length: int | None = option(
        text="attended tokens on average (default: max_length, the worst case)",
        kind=kinds.positive_int,
    )
    prompt_length: int = option(
        1, "of it, tokens whose log-probability nobody asks", kind=kinds.positive_int
    )
    max_tokens_per_pass: int | None = option(
        text="(default: 1024 on a CPU, else 16384)", kind=kinds.positive_int
    )
    per_device_train_batch_size: int = option(
        16, "pairs or sequences in a backward pass", kind=kinds.positive_int
    )
    per_device_prompt_batch_size: int = option(16, "prompts in a rollout", kind=kinds.positive_int)
    num_return_sequences: int | None = option(
        text="responses to each prompt (default: 1, GRPO 8)", kind=kinds.positive_int
    )
    lora_dim: int = option(8, "k singular values", kind=kinds.positive_int)
    lora_module_name: str = option("layers.", "adapt layers named like this")
    bf16: bool = option(True, "bfloat16 (default here, as in the launchers: true)")
    gradient_checkpointing: bool = option(True, "recompute activations (default here: true)")
    ptx: bool = option(False, "with --ptx_datasets")


@configuration
class MemoryOptions(PlannedTraining, PlannedModels):
    """A training, and the cards that it is planned for."""

    GROUP: ClassVar[str] = "cards"

    zero_stage: Literal[0, 1, 2, 3] = option(0)
    offload: Literal["none", "parameter", "optimizer", "all"] = option("none")
    gpus: int = option(1, "processes", kind=kinds.positive_int)
    card_gib: float = option(80.0, "of a card", kind=kinds.positive_float)
    device: Literal["cuda", "cpu"] = option("cuda")
    json: bool = option(False, "as JSON, in bytes")

    @property
    def group(self) -> int:
        """Responses to each prompt."""
        return self.num_return_sequences or (8 if self.algorithm == "grpo" else 1)

    @property
    def has_rewards(self) -> bool:
        """Whether the algorithm learns from rewards."""
        return self.algorithm in ("ppo", "grpo")

    def check(self) -> None:
        """Refuse lengths and rewards that contradict each other."""
        if self.mean_length is not None and self.mean_length > self.max_length:
            raise UserError(
                f"--mean_length {self.mean_length} is above --max_length {self.max_length}"
            )
        if self.prompt_length >= self.max_length:
            raise UserError(
                f"--prompt_length {self.prompt_length} fills --max_length {self.max_length}"
            )
        if self.reward_models is None:
            return
        if not self.has_rewards:
            raise UserError(f"--reward_models: --algorithm {self.algorithm} has none")
        if len(self.reward_models) != self.objectives:
            raise UserError(
                f"--objectives is {self.objectives}, but there are {len(self.reward_models)} "
                "--reward_models"
            )
