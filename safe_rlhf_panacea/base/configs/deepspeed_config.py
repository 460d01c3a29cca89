"""DeepSpeed configurations for training and evaluation engines."""

from __future__ import annotations

from typing import Any

ADAM_BETAS = (0.9, 0.95)
GRADIENT_CLIPPING = 1.0


def _precision(fp16: bool, bf16: bool) -> dict[str, Any]:
    return {"fp16": {"enabled": fp16}, "bf16": {"enabled": bf16}}


def get_deepspeed_train_config(
    micro_batch_size: int,
    gradient_accumulation_steps: int,
    world_size: int,
    *,
    zero_stage: int = 0,
    offload: str = "none",
    fp16: bool = False,
    bf16: bool = False,
) -> dict[str, Any]:
    """The configuration of a training engine.

    Args:
        micro_batch_size: sequences (or pairs) per device and forward pass.
        gradient_accumulation_steps: forward passes per optimiser update.
        world_size: number of processes.
        zero_stage: ZeRO stage, 0 to 3.
        offload: ``none``, ``parameter``, ``optimizer`` or ``all``: what lives in CPU memory.
        fp16: train in float16 with dynamic loss scaling.
        bf16: train in bfloat16 with float32 master weights.
    """
    zero: dict[str, Any] = {"stage": zero_stage}
    if offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload in ("parameter", "all"):
        zero["offload_param"] = {"device": "cpu"}
    if zero_stage == 3:
        # Without this, saving under ZeRO 3 writes nothing and says nothing.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": micro_batch_size * gradient_accumulation_steps * world_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": GRADIENT_CLIPPING,
        "steps_per_print": 10**9,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        **_precision(fp16, bf16),
    }


def get_deepspeed_eval_config(
    *, zero_stage: int = 0, fp16: bool = False, bf16: bool = False
) -> dict[str, Any]:
    """The configuration of an engine that only runs forward passes.

    Only ZeRO 3 shards parameters, so that any lower stage means no ZeRO at all here.
    """
    return {
        "train_batch_size": None,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
        "zero_optimization": {"stage": 3 if zero_stage == 3 else 0},
        **_precision(fp16, bf16),
    }
