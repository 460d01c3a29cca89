"""The options of this program: a training's, in the training programs' names, and the cards."""

from __future__ import annotations

from typing import Literal

from safe_rlhf_panacea.configs import Options, configuration, kinds, option
from safe_rlhf_panacea.errors import UserError


@configuration
class PlannedModels(Options):
    """The models of the training."""

    model: str = option(text="folder or hub name", required=True)
    algorithm: Literal["dpo", "ppo", "grpo", "sft"] = option(required=True)
    objectives: int = option(2, "m")
    reward_models: tuple[tuple[str, str], ...] | None = option(
        text="default: for each objective a model of the policy's size; functions cost nothing",
        kind=kinds.named_value,
        metavar="NAME=PATH",
    )
    trust_remote_code: bool = option(False, "run code that comes with a model")


@configuration
class PlannedTraining(Options, group="training, in the training programs' names"):
    """What the training does."""

    max_length: int = option(512, "tokens in a sequence")
    mean_length: int | None = option(
        text="attended tokens on average (default: max_length, the worst case)"
    )
    prompt_length: int = option(1, "of it, tokens whose log-probability nobody asks")
    max_tokens_per_pass: int | None = option(text="(default: 1024 on a CPU, else 16384)")
    per_device_train_batch_size: int = option(16, "pairs or sequences in a backward pass")
    per_device_prompt_batch_size: int = option(16, "prompts in a rollout")
    num_return_sequences: int | None = option(text="responses to each prompt (default: 1, GRPO 8)")
    lora_dim: int = option(8, "k singular values")
    lora_module_name: str = option("layers.", "adapt layers named like this", kind=kinds.text)
    bf16: bool = option(True, "bfloat16 (default here, as in the launchers: true)")
    gradient_checkpointing: bool = option(True, "recompute activations (default here: true)")
    ptx: bool = option(False, "with --ptx_datasets")


@configuration
class MemoryOptions(PlannedTraining, PlannedModels, group="cards"):
    """Say what each card will hold in a training, from the models' configurations alone.

    The step runs on tensors that have sizes but no memory; no weights are read or downloaded.
    Exit code 1: it does not fit, and what to change is said.
    """

    zero_stage: Literal[0, 1, 2, 3] = option(0)
    offload: Literal["none", "parameter", "optimizer", "all"] = option("none")
    gpus: int = option(1, "processes")
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
