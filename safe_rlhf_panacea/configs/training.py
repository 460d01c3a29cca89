"""Options that programs which train or load a model share; names of training are Safe-RLHF's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.kinds import AnyPath
from safe_rlhf_panacea.configs.options import Options, option
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
TEMPLATE = (
    "auto: the tokenizer's own, else Safe-RLHF's; safe-rlhf; none: the prompt alone; raw: and its "
    "control tokens; a jinja file"
)
DATASET = "data sets as name[:proportion[:path]], or a path or hub name in place of name"


class TemplateOptions(Options):
    """How conversations are written."""

    chat_template: kinds.Template | Path = option("auto", TEMPLATE)


class DataOptions(Options, group="data"):
    """The data, each set as text or as an object that ``from_rows`` of ``data`` makes."""

    train_datasets: Sequence[kinds.DataSet] = option(None, DATASET, required=True)
    eval_datasets: Sequence[kinds.DataSet] | None = option(None, DATASET)
    eval_split_ratio: kinds.ProperShare | None = option(None, "share of the training data held out")
    trust_remote_code: bool = option(False, "run code that comes with a model")


class LengthOptions(Options, group="training"):
    """Length, batches, precision and seed."""

    max_length: int = option(512, "tokens in a sequence")
    epochs: int = option(1)
    max_steps: int | None = option(text="stop after so many training steps")
    per_device_train_batch_size: int = option(16)
    per_device_eval_batch_size: int = option(16)
    gradient_accumulation_steps: int = option(1)
    max_tokens_per_pass: int | None = option(
        text="tokens, padding included, in one forward pass (default: 1024 on a CPU, else 16384)"
    )
    share_prefixes: bool = option(True, "read what a pair or a group begins with once")
    seed: kinds.Seed = option(42)
    fp16: bool = option(False, "float16 with loss scaling")
    bf16: bool = option(False, "bfloat16 with float32 master weights")
    tf32: bool = option(False, "TensorFloat-32 matrix products on a GPU")


class ScheduleOptions(Options, group="optimiser"):
    """The learning rate of the one model that is trained."""

    lr: kinds.NonNegative = option(2e-5, "peak", names=("learning_rate",))
    weight_decay: kinds.NonNegative = option(0.0)
    lr_scheduler_type: Scheduler = option("cosine")
    lr_warmup_ratio: kinds.Probability = option(0.03)
    gradient_checkpointing: bool = option(False, "recompute activations")


class ActorScheduleOptions(Options, group="actor_optimiser"):
    """The learning rate of the policy in reinforcement learning."""

    actor_lr: kinds.NonNegative = option(1e-3, "peak", names=("actor_learning_rate",))
    actor_weight_decay: kinds.NonNegative = option(0.01)
    actor_lr_scheduler_type: Scheduler = option("cosine")
    actor_lr_warmup_ratio: kinds.Probability = option(0.03)
    actor_gradient_checkpointing: bool = option(False, "recompute activations")


class CriticScheduleOptions(Options, group="critic_optimiser"):
    """The learning rate of PPO's critic."""

    critic_lr: kinds.NonNegative = option(1e-3, "peak", names=("critic_learning_rate",))
    critic_weight_decay: kinds.NonNegative = option(0.0)
    critic_lr_scheduler_type: Scheduler = option("constant")
    critic_lr_warmup_ratio: kinds.Probability = option(0.03)
    critic_gradient_checkpointing: bool = option(False, "recompute activations")


class EvaluationOptions(Options, group="evaluation"):
    """When to evaluate during training."""

    need_eval: bool = option(False, "evaluate during training")
    eval_strategy: Literal["epoch", "steps"] = option("epoch")
    eval_interval: int = option(1_000_000)


class OutputOptions(Options, group="output"):
    """Where results and logs go."""

    output_dir: kinds.Folder | Path = option(
        None, "folder of this run; must hold none yet", required=True
    )
    overwrite: bool = option(False, "replace a run that the folder already holds")
    resume: bool = option(
        False, "go on from the latest checkpoint in output_dir; its files are read as data"
    )
    log_type: Literal["wandb", "tensorboard", "none"] = option("wandb", "wandb works offline")
    report_to: Sequence[Literal["wandb", "tensorboard", "none", "trackio"]] | None = option(
        text="in place of --log_type: one or several of wandb, tensorboard, trackio; or none"
    )
    log_dir: AnyPath | None = option(text="default: output_dir")
    log_project: kinds.Text | None = option(None, "default: safe-rlhf-panacea")
    log_run_name: kinds.Text | None = option()
    progress: bool = option(True, "show progress bars")
    save_interval: int = option(1_000_000, "steps between checkpoints")


class FromNothingOptions(Options):
    """A program that makes everything up to a front, as the quickstart does."""

    output_dir: AnyPath | None = option(
        text="default: a folder below runs with the time in its name"
    )
    seed: kinds.Seed = option(42)
    overwrite: bool = option(False, "replace a run that the folder already holds")
    wandb: bool = option(True, "log Panacea's training to wandb, offline")
    progress: bool = option(True, "show progress bars")
    smoke: bool = option(False, "a few steps of everything, to see that it runs")


class DeepSpeedOptions(Options, group="deepspeed"):
    """DeepSpeed's own; its launcher sets ``local_rank``."""

    local_rank: kinds.AnyInteger = option(-1, "set by the launcher")
    zero_stage: Literal[0, 1, 2, 3] = option(0)
    offload: Literal["none", "parameter", "optimizer", "all"] = option("none")


class TrainConfig(
    DeepSpeedOptions, OutputOptions, EvaluationOptions, LengthOptions, DataOptions, TemplateOptions
):
    """What every training program can be told."""

    def resolved(self) -> Self:
        """These options, with those filled in that follow from others."""
        return self

    def check(self) -> None:
        """Refuse options that contradict each other, and malformed data sets."""
        from safe_rlhf_panacea.data.specs import read_specs

        super().check()
        for name in ("train_datasets", "eval_datasets", "ptx_datasets"):
            if getattr(self, name, None) is not None:
                read_specs(getattr(self, name))
        if self.fp16 and self.bf16:
            raise UserError("--fp16 and --bf16 were both given: choose one")
        if self.need_eval and (self.eval_datasets is None) == (self.eval_split_ratio is None):
            raise UserError(
                "--need_eval wants exactly one of --eval_datasets and --eval_split_ratio"
            )
        if self.offload != "none" and self.zero_stage < 2:
            raise UserError(f"--offload {self.offload} needs --zero_stage 2 or 3")
        if self.offload in ("parameter", "all") and self.zero_stage != 3:
            raise UserError(f"--offload {self.offload} needs --zero_stage 3")


class TrainedAdapterOptions(Options):
    """A trained adapter and the base model under it."""

    adapter: str = option(text="folder of a trained adapter", required=True)
    base_model: str | None = option(
        text="its hub name or folder; default: the one that the adapter names"
    )


class LoadingOptions(TrainedAdapterOptions):
    """How the base model is loaded and spoken to."""

    chat_template: kinds.Template | None = option(None, f"{TEMPLATE} (default: the adapter's)")
    trust_remote_code: bool = option(False, "run code that comes with the base model")


class DeviceOptions(LoadingOptions, group="model"):
    """Where the model answers, and in which precision."""

    device: str | None = option(text="default: an accelerator if there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "default: as saved")


class AnswerOptions(Options):
    """How answers are drawn."""

    system: str | None = option(text="a system prompt")
    max_new_tokens: int = option(256, "tokens of an answer")
    temperature: kinds.NonNegative = option(
        0.0, "of sampling; default: 0, which always takes the likeliest token"
    )
    seed: kinds.Seed | None = option(None, "of sampling")
