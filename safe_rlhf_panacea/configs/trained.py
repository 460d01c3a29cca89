"""What the programs share that load a trained adapter."""

from __future__ import annotations

from typing import ClassVar, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import Options, configuration, option
from safe_rlhf_panacea.configs.training import TEMPLATE


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
class DeviceOptions(LoadingOptions):
    """Where the model answers, and in which precision."""

    GROUP: ClassVar[str] = "model"

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
