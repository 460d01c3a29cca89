"""Options that programs which train or load a model share; names of training are Safe-RLHF's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.kinds import AnyPath
from safe_rlhf_panacea.configs.options import Options, configuration, option
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
TEMPLATE = (
    "auto: the tokenizer's own, else Safe-RLHF's; safe-rlhf; none: the prompt alone; raw: and its "
    "control tokens; a jinja file"
)
DATASET = "data sets as name[:proportion[:path]], or a path or hub name in place of name"


@configuration
class TemplateOptions(Options):
    """How conversations are written."""

    chat_template: AnyPath = option("auto", TEMPLATE, kind=kinds.chat_template, metavar="TEMPLATE")


@configuration
class DataOptions(Options, group="data"):
    """The data, each set as text or as an object that ``from_rows`` of ``data`` makes."""

    train_datasets: Sequence[Any] = option(
        text=DATASET, kind=kinds.data_set, metavar="SPEC", required=True
    )
    eval_datasets: Sequence[Any] | None = option(text=DATASET, kind=kinds.data_set, metavar="SPEC")
    eval_split_ratio: float | None = option(
        text="share of the training data held out", kind=kinds.proper_share
    )
    trust_remote_code: bool = option(False, "run code that comes with a model")


@configuration
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
    seed: int = option(42, kind=kinds.seed_int)
    fp16: bool = option(False, "float16 with loss scaling")
    bf16: bool = option(False, "bfloat16 with float32 master weights")
    tf32: bool = option(False, "TensorFloat-32 matrix products on a GPU")


@configuration
class ScheduleOptions(Options, group="optimiser"):
    """The learning rate of the one model that is trained."""

    lr: float = option(2e-5, "peak", kind=kinds.non_negative_float, names=("learning_rate",))
    weight_decay: float = option(0.0, kind=kinds.non_negative_float)
    lr_scheduler_type: Scheduler = option("cosine")
    lr_warmup_ratio: float = option(0.03, kind=kinds.probability)
    gradient_checkpointing: bool = option(False, "recompute activations")


@configuration
class ActorScheduleOptions(Options, group="actor_optimiser"):
    """The learning rate of the policy in reinforcement learning."""

    actor_lr: float = option(
        1e-3, "peak", kind=kinds.non_negative_float, names=("actor_learning_rate",)
    )
    actor_weight_decay: float = option(0.01, kind=kinds.non_negative_float)
    actor_lr_scheduler_type: Scheduler = option("cosine")
    actor_lr_warmup_ratio: float = option(0.03, kind=kinds.probability)
    actor_gradient_checkpointing: bool = option(False, "recompute activations")


@configuration
class CriticScheduleOptions(Options, group="critic_optimiser"):
    """The learning rate of PPO's critic."""

    critic_lr: float = option(
        1e-3, "peak", kind=kinds.non_negative_float, names=("critic_learning_rate",)
    )
    critic_weight_decay: float = option(0.0, kind=kinds.non_negative_float)
    critic_lr_scheduler_type: Scheduler = option("constant")
    critic_lr_warmup_ratio: float = option(0.03, kind=kinds.probability)
    critic_gradient_checkpointing: bool = option(False, "recompute activations")


@configuration
class EvaluationOptions(Options, group="evaluation"):
    """When to evaluate during training."""

    need_eval: bool = option(False, "evaluate during training")
    eval_strategy: Literal["epoch", "steps"] = option("epoch")
    eval_interval: int = option(1_000_000)


@configuration
class OutputOptions(Options, group="output"):
    """Where results and logs go."""

    output_dir: AnyPath = option(
        text="folder of this run; must hold none yet", kind=kinds.folder, required=True
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
    log_project: str | None = option(text="default: safe-rlhf-panacea", kind=kinds.text)
    log_run_name: str | None = option(kind=kinds.text)
    progress: bool = option(True, "show progress bars")
    save_interval: int = option(1_000_000, "steps between checkpoints")


@configuration
class FromNothingOptions(Options):
    """A program that makes everything up to a front, as the quickstart does."""

    output_dir: AnyPath | None = option(
        text="default: a folder below runs with the time in its name"
    )
    seed: int = option(42, kind=kinds.seed_int)
    overwrite: bool = option(False, "replace a run that the folder already holds")
    wandb: bool = option(True, "log Panacea's training to wandb, offline")
    progress: bool = option(True, "show progress bars")
    smoke: bool = option(False, "a few steps of everything, to see that it runs")


@configuration
class DeepSpeedOptions(Options, group="deepspeed"):
    """DeepSpeed's own; its launcher sets ``local_rank``."""

    local_rank: int = option(-1, "set by the launcher", kind=kinds.any_int)
    zero_stage: Literal[0, 1, 2, 3] = option(0)
    offload: Literal["none", "parameter", "optimizer", "all"] = option("none")


@configuration
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


@configuration
class TrainedAdapterOptions(Options):
    """A trained adapter and the base model under it."""

    adapter: str = option(text="folder of a trained adapter", required=True)
    base_model: str | None = option(
        text="its hub name or folder; default: the one that the adapter names"
    )


@configuration
class LoadingOptions(TrainedAdapterOptions):
    """How the base model is loaded and spoken to."""

    chat_template: str | None = option(
        text=f"{TEMPLATE} (default: the adapter's)", kind=kinds.chat_template, metavar="TEMPLATE"
    )
    trust_remote_code: bool = option(False, "run code that comes with the base model")


@configuration
class DeviceOptions(LoadingOptions, group="model"):
    """Where the model answers, and in which precision."""

    device: str | None = option(text="default: an accelerator if there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "default: as saved")


@configuration
class AnswerOptions(Options):
    """How answers are drawn."""

    system: str | None = option(text="a system prompt")
    max_new_tokens: int = option(256, "tokens of an answer")
    temperature: float = option(
        0.0,
        "of sampling; default: 0, which always takes the likeliest token",
        kind=kinds.non_negative_float,
    )
    seed: int | None = option(text="of sampling", kind=kinds.seed_int)
