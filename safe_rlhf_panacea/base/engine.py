"""DeepSpeed: its configurations and engines, the updates they make, and means over an update.

An engine takes the mean of the losses of an update's micro-batches and of all processes. If each
of these were a mean of its own, a label among few would count for more than one among many. So a
loss here is its micro-batch's sum, divided by what an *average micro-batch of the update* counts:
the engine's mean is then the sum over the update, divided by the count over the update.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from safe_rlhf_panacea.distributed import (
    all_reduce_means,
    all_reduce_sum,
    get_world_size,
    own_device,
    unwrap,
)
from safe_rlhf_panacea.errors import UserError

Batch = dict[str, Any]
ADAM_BETAS = (0.9, 0.95)
GRADIENT_CLIPPING = 1.0


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
    """The configuration of a training engine on ``world_size`` processes.

    ``micro_batch_size`` is sequences (or pairs) per device and forward pass. ``offload`` says what
    lives in CPU memory: ``none``, ``parameter``, ``optimizer`` or ``all``. ``fp16`` has dynamic
    loss scaling, ``bf16`` float32 master weights.
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
        "fp16": {"enabled": fp16},
        "bf16": {"enabled": bf16},
    }


def get_deepspeed_eval_config(
    world_size: int, *, zero_stage: int = 0, fp16: bool = False, bf16: bool = False
) -> dict[str, Any]:
    """The configuration of an engine that only runs forward passes.

    Of the ZeRO stages only 3 shards weights; a lower one is none at all here.
    """
    return {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
        "zero_optimization": {"stage": 3 if zero_stage == 3 else 0},
        "fp16": {"enabled": fp16},
        "bf16": {"enabled": bf16},
    }


def with_own_rates(groups: list[dict[str, Any]], lr: float) -> list[dict[str, Any]]:
    """The groups of an optimiser, split where parameters have learning rates of their own.

    A parameter with the attribute ``lr_multiplier`` learns that many times as fast as the others.
    Its group has an ``lr`` and comes after the groups without one. Empty groups are left out.
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


def init_train_engine(
    model: nn.Module, args: Any, ds_config: dict[str, Any], updates: int, role: str = ""
) -> Any:
    """Move a model to this process's device and wrap it in a training engine.

    Its parameters with ``requires_grad`` are trained; vectors and scalars (biases, norms, σ and s)
    are not decayed. The learning rate and what belongs to it are read from ``args``, where the
    names begin with ``role``: ``actor_``, ``critic_`` or nothing. ``updates`` is how many the
    optimiser makes in the whole run.

    Raises:
        UserError: nothing is trainable.
    """
    import deepspeed
    from deepspeed.runtime.utils import clip_grad_norm_
    from transformers import get_scheduler

    model.to(own_device())
    lr, decay = getattr(args, f"{role}lr"), getattr(args, f"{role}weight_decay")
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = with_own_rates(groups, lr)
    if not groups:
        raise UserError("no parameter is trainable: nothing to optimise")
    if "offload_optimizer" in ds_config["zero_optimization"]:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer: Any = DeepSpeedCPUAdam(groups, lr=lr, betas=ADAM_BETAS)
    else:  # torch's fused AdamW needs no compiler, unlike DeepSpeed's own
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=ADAM_BETAS, fused=True)
    scheduler = get_scheduler(
        name=getattr(args, f"{role}lr_scheduler_type"),
        optimizer=optimizer,
        num_warmup_steps=int(updates * getattr(args, f"{role}lr_warmup_ratio")),
        num_training_steps=max(1, updates),
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        config=ds_config,
        dist_init_required=False,
    )

    def clip() -> None:
        """In float32 without ZeRO DeepSpeed clips by the gradient norm and forgets it: keep it."""
        limit = engine.gradient_clipping()
        parameters = engine.module.parameters()
        engine._global_grad_norm = clip_grad_norm_(parameters, limit, mpu=engine.mpu)

    engine.clip_fp32_gradients = clip
    if getattr(args, f"{role}gradient_checkpointing"):
        set_gradient_checkpointing(engine, True)
    return engine


def init_eval_engine(model: nn.Module, ds_config: Any) -> Any:
    """Freeze a model and move it to the device; an engine under ZeRO 3, else the model itself."""
    model.to(own_device()).eval().requires_grad_(False)
    if ds_config["zero_optimization"]["stage"] != 3:
        return model
    import deepspeed

    engine, *_ = deepspeed.initialize(model=model, config=ds_config, dist_init_required=False)
    return engine


def set_gradient_checkpointing(model: Any, on: bool) -> None:
    """Switch the recomputation of activations, of the kind that works on a frozen base."""
    if on:
        unwrap(model).gradient_checkpointing_enable({"use_reentrant": False})
    else:
        unwrap(model).gradient_checkpointing_disable()


def gathered(parameters: list[nn.Parameter]) -> Any:
    """A context in which parameters sharded by ZeRO 3 are whole; nothing to do otherwise."""
    sharded = [p for p in parameters if hasattr(p, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)


def passes_since_update(engine: Any) -> int:
    """Backward passes whose gradients wait for the engine's next update."""
    return engine.micro_steps % engine.gradient_accumulation_steps()


def learning_rate(engine: Any) -> float:
    """The learning rate of the next update."""
    return engine.optimizer.param_groups[0]["lr"]


# -- updates --------------------------------------------------------------------------


def average(counts: Sequence[Tensor]) -> Tensor:
    """What an average micro-batch of an update counts, over all processes.

    ``counts`` are the labels, tokens or rows of each micro-batch on this process, all of one size;
    the result is of that size, in float32. Every process has as many micro-batches.
    """
    total = torch.stack(list(counts)).sum(dim=0).float()
    return all_reduce_sum(total) / (len(counts) * get_world_size())


def counted(
    batches: Sequence[Batch], count: Callable[[Batch], Tensor], device: torch.device
) -> list[Batch]:
    """The batches of an update, each with ``counts``: what an average one of them counts."""
    counts = average([count(batch).to(device) for batch in batches])
    return [{**batch, "counts": counts} for batch in batches]


def step_info(values: dict[str, Tensor], engine: Any) -> dict[str, float]:
    """What is logged of a step: the mean of each value over all processes, and the rate."""
    info = {f"train/{name}": mean for name, mean in all_reduce_means(values).items()}
    return {**info, "train/lr": learning_rate(engine)}


def means_of_evaluation(collected: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Means over the evaluation prompts of all processes.

    ``collected`` has the values of every batch, size = (B,) each, by name; NaN is left out.
    """
    joined = {name: torch.cat([*values]) for name, values in collected.items()}
    return all_reduce_means({name: one[~one.isnan()] for name, one in joined.items()})


def by_update(steps: Sequence[Any], engine: Any, passes: int = 1) -> list[Sequence[Any]]:
    """The training steps to come, cut where the engine's updates end.

    The first part may belong to an update that earlier steps have begun, and the last one to an
    update that later steps will end. Each step makes ``passes`` backward passes of the engine.
    """
    size = engine.gradient_accumulation_steps() // passes
    begun = passes_since_update(engine) // passes
    cuts = [0, *range(size - begun, len(steps), size), len(steps)]
    return [steps[start:end] for start, end in itertools.pairwise(cuts) if start < end]
