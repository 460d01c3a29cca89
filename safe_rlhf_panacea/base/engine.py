"""DeepSpeed: configurations, engines, and what is saved from them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from safe_rlhf_panacea.distributed import get_world_size, own_device
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


def get_optimizer_grouped_parameters(
    module: nn.Module, weight_decay: float, lr: float
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of one weight decay and one learning rate.

    Vectors and scalars (biases, norms, σ and s) are not decayed.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return with_own_rates(groups, lr)


def with_own_rates(groups: list[dict[str, Any]], lr: float) -> list[dict[str, Any]]:
    """The groups of an optimiser, split where parameters have learning rates of their own.

    A parameter with the attribute ``lr_multiplier`` learns so many times as fast as the others. Its
    group has an ``lr`` and comes after those that have the optimiser's. Empty groups are left out.
    """
    split = []
    for group in groups:
        found: dict[float, list[nn.Parameter]] = {1.0: []}
        for parameter in group["params"]:
            found.setdefault(getattr(parameter, "lr_multiplier", 1.0), []).append(parameter)
        own = found.pop(1.0)
        split.append({**group, "params": own})
        split += [{**group, "params": p, "lr": lr * factor} for factor, p in found.items()]
    return sorted((group for group in split if group["params"]), key=lambda group: "lr" in group)


def _make_optimizer(groups: list[dict[str, Any]], lr: float, ds_config: dict[str, Any]) -> Any:
    offload = ds_config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    if offload != "none":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=lr, betas=ADAM_BETAS)
    # torch's fused AdamW needs no compiler, unlike DeepSpeed's own.
    return torch.optim.AdamW(groups, lr=lr, betas=ADAM_BETAS, fused=True)


def _initialize(**kwargs: Any) -> Any:
    import deepspeed

    engine, *_ = deepspeed.initialize(dist_init_required=False, **kwargs)
    return engine


def init_train_engine(
    model: nn.Module,
    ds_config: dict[str, Any],
    *,
    lr: float,
    weight_decay: float,
    lr_scheduler_type: str,
    lr_warmup_ratio: float,
    update_steps: int,
) -> Any:
    """Wrap ``model`` in a training engine.

    Args:
        model: its parameters with ``requires_grad`` are trained.
        ds_config: DeepSpeed's configuration.
        lr: peak learning rate.
        weight_decay: AdamW's decoupled weight decay.
        lr_scheduler_type: transformers' name of the schedule.
        lr_warmup_ratio: share of the updates spent warming up.
        update_steps: number of optimiser updates in the whole run.

    Raises:
        UserError: nothing is trainable.
    """
    from transformers import get_scheduler

    groups = get_optimizer_grouped_parameters(model, weight_decay, lr)
    if not groups:
        raise UserError("no parameter is trainable: nothing to optimise")
    optimizer = _make_optimizer(groups, lr, ds_config)
    scheduler = get_scheduler(
        name=lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=int(update_steps * lr_warmup_ratio),
        num_training_steps=max(1, update_steps),
    )
    engine = _initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=ds_config)
    _keep_gradient_norm(engine)
    return engine


def _keep_gradient_norm(engine: Any) -> None:
    """In float32 without ZeRO DeepSpeed clips by the gradient norm and forgets it: keep it."""
    from deepspeed.runtime.utils import clip_grad_norm_

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(
            parameters=engine.module.parameters(),
            max_norm=engine.gradient_clipping(),
            mpu=engine.mpu,
        )

    engine.clip_fp32_gradients = clip


def init_role_engine(
    model: nn.Module, args: Any, role: str, ds_config: dict[str, Any], updates: int
) -> Any:
    """The training engine of ``actor`` or ``critic``, with the flags that begin with its name."""
    options = {
        name: getattr(args, f"{role}_{name}")
        for name in ("lr", "weight_decay", "lr_scheduler_type", "lr_warmup_ratio")
    }
    model.to(own_device())
    engine = init_train_engine(model, ds_config, update_steps=updates, **options)
    if getattr(args, f"{role}_gradient_checkpointing"):
        set_gradient_checkpointing(engine, True)
    return engine


def init_eval_engine(model: nn.Module, ds_config: Any) -> Any:
    """Place a frozen model: a ZeRO 3 engine where its weights are sharded, else just itself."""
    model.eval().requires_grad_(False)
    if ds_config["zero_optimization"]["stage"] != 3:
        return model
    return _initialize(model=model, config=ds_config)


def unwrap(model: Any) -> PreTrainedModel:
    """The module inside an engine, or the module itself.

    That is a model of transformers, or one with those of its methods that are asked for.
    """
    return getattr(model, "module", model)


def is_sharded(model: nn.Module) -> bool:
    """Whether several processes hold a share of the weights each (ZeRO 3)."""
    return get_world_size() > 1 and is_under_zero3(model)


def is_under_zero3(model: nn.Module) -> bool:
    """Whether ZeRO 3 puts the weights together for every pass, of one process or of several."""
    return any(hasattr(p, "ds_id") for p in model.parameters())


def set_gradient_checkpointing(model: Any, on: bool) -> None:
    """Switch recomputation of activations, the kind that works on a frozen base."""
    module = unwrap(model)
    if on:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        module.gradient_checkpointing_disable()


def gathered(parameters: list[nn.Parameter]) -> Any:
    """A context in which parameters sharded by ZeRO 3 are whole; nothing to do otherwise."""
    sharded = [p for p in parameters if hasattr(p, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)


def whole_state_dict(engine: Any) -> dict[str, torch.Tensor]:
    """The full state of an engine's module, gathered from all ranks under ZeRO 3."""
    module = unwrap(engine)
    if getattr(engine, "zero_optimization_partition_weights", lambda: False)():
        return engine._zero3_consolidated_16bit_state_dict()
    return module.state_dict()


def passes_since_update(engine: Any) -> int:
    """Backward passes whose gradients wait for the engine's next update."""
    return engine.micro_steps % engine.gradient_accumulation_steps()


def gradient_norm(engine: Any) -> float | None:
    """The gradient norm of the update just made; None where none was, or it is not known."""
    norm = engine.get_global_grad_norm() if engine.was_step_applied() else None
    return None if norm is None else float(norm)


def learning_rate(engine: Any) -> float:
    """The learning rate of the next update."""
    return engine.optimizer.param_groups[0]["lr"]
