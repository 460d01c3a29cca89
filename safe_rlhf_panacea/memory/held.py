"""What the models of a training and the parts of its step hold, by running them without memory.

The parts use the trainers' own functions, and run alike on models with weights and on models that
only pretend to have any. Sequences share no beginning here, which depends on the data and holds no
more.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from safe_rlhf_panacea.adapter.product import onednn_is_faster
from safe_rlhf_panacea.adapter.state import PreferenceState
from safe_rlhf_panacea.base.engine import set_gradient_checkpointing
from safe_rlhf_panacea.forward import log_probs
from safe_rlhf_panacea.forward.decoding import preallocated_cache
from safe_rlhf_panacea.forward.generation import invert
from safe_rlhf_panacea.memory.models import LiveBytes, Models

if TYPE_CHECKING:
    from safe_rlhf_panacea.memory.__main__ import MemoryOptions


@dataclass(frozen=True)
class Part:
    """A part of a training step: bytes above what is there all the time, at most."""

    kept: int  # activations of the whole pass stay for the backward pass
    recomputed: int  # with gradient checkpointing
    logits: int  # in tensors as wide as the vocabulary, of either


@dataclass(frozen=True)
class Held:
    """Everything as one card without ZeRO has it."""

    models: int  # backbones
    engines: int  # trained models, each with an optimiser
    weights: int  # bytes of all models, buffers included, adapters not
    trained: int  # elements of adapters and value head
    element: int  # bytes of a weight
    largest: int  # bytes of the largest model
    parts: dict[str, Part]  # of the step, by name


def padded(
    lengths: Sequence[int], device: Any = "cpu", prompt_length: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and mask, size = (B, L), and what counts, size = (B, L - 1), of rows so long.

    They are padded on the right; tokens of the prompt do not count.
    """
    ends = torch.tensor(lengths, device=device).unsqueeze(1)
    mask = torch.arange(max(lengths), device=device) < ends
    counted = mask[:, 1:].clone()
    counted[:, : prompt_length - 1] = False
    return torch.zeros(mask.shape, dtype=torch.long, device=device), mask, counted


def lengths_of(rows: int, max_length: int, mean_length: float) -> list[int]:
    """One row of the largest length, the others so that the mean is right: padding is not free."""
    if rows == 1:
        return [max_length]
    rest = (mean_length * rows - max_length) / (rows - 1)
    return [max_length] + [min(max_length, max(1, round(rest)))] * (rows - 1)


@torch.no_grad()
def _generate(policy: Any, rows: int, max_length: int) -> None:
    """The cache of a whole generation, and one forward pass that fills half of it."""
    cache = preallocated_cache(policy.config, max_length)
    ids, mask, _ = padded([max(1, max_length // 2)] * rows, policy.device)
    logits = policy(
        input_ids=ids,
        attention_mask=mask.long(),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    invert(logits.float().softmax(dim=-1), torch.rand(rows, dtype=torch.float64).to(logits.device))


def _parts(
    models: Models, state: PreferenceState, args: MemoryOptions
) -> dict[str, Callable[[], None]]:
    """The parts of a step by name, in their order."""
    rows = args.per_device_train_batch_size
    sequences = 2 * rows if args.algorithm == "dpo" else rows
    policy, adapter, critic = models.policy, models.adapter, models.critic
    lengths = lengths_of(sequences, args.max_length, args.mean_length or args.max_length)
    ids, mask, counted = padded(lengths, policy.device, args.prompt_length)

    def generation() -> None:
        drawn = rows
        if args.algorithm == "ppo":
            drawn = min(rows, args.per_device_prompt_batch_size) * args.group
        merges = not args.bf16 and args.zero_stage < 3  # as trainers do, at one λ
        with adapter.merged(state.value) if merges else nullcontext():
            _generate(policy, drawn, args.max_length)

    @torch.no_grad()
    def reference() -> None:
        with adapter.disabled():
            log_probs(policy, ids, mask, counted)

    @torch.no_grad()
    def scoring() -> None:
        reference()
        for reward in models.rewards:
            if reward is models.rewards[0] and critic is not None:
                critic(ids, attention_mask=mask, role="reward")
            else:
                reward(ids, attention_mask=mask)

    def ptx() -> None:
        log_probs(policy, ids, mask, counted).sum().backward()

    def update() -> None:
        ptx()
        if critic is not None:
            critic(ids, attention_mask=mask).scores.float().sum().backward()

    if args.algorithm == "sft":
        return {"update": update}
    if args.algorithm == "dpo":
        return {"reference": reference, "update": update}
    found = {"generation": generation, "scoring": scoring, "update": update}
    return {**found, "ptx": ptx} if args.ptx else found


def _peak(live: Any, run: Callable[[], None]) -> tuple[int, int]:
    """Bytes above what was there before, and those of logits."""
    gc.collect()  # an earlier graph that a cycle holds would be counted, and freed meanwhile
    live.restart()
    before, wide = live.now, live.wide
    run()
    return live.peak - before, live.widest - wide


def held(
    args: MemoryOptions,
    policy: Any,
    rewards: Sequence[Any],
    *,
    meter: Any = None,
    device: str | None = None,
) -> Held:
    """Run every part of the step of a planned training, with recomputation and without.

    ``policy`` and ``rewards`` are transformers' configurations, with none for a function.
    ``meter`` counts in the place of ``LiveBytes``. On a ``device`` models have real, random
    weights; without one they take no memory.
    """
    state = PreferenceState(args.objectives)  # is not counted
    live = meter or LiveBytes(policy.get_text_config().vocab_size)
    onednn_is_faster()  # now: what it measures with belongs to no part of a step
    with ExitStack() as stack:
        gc.collect()
        gc.freeze()  # collections look at nothing that was there before, and are quick
        stack.callback(gc.unfreeze)
        stack.enter_context(live)
        models = Models(args, state, policy, rewards, device)
        element = models.policy.dtype.itemsize
        gc.collect()
        trained = sum(p.numel() for p in models.trained())
        weights = live.now - 2 * trained * element  # the gradients are there, too
        engines = [m for m in (models.policy, models.critic) if m is not None]
        runs, parts = _parts(models, state, args), {}
        for engine in engines:
            engine.train()
        kept = {name: _peak(live, run) for name, run in runs.items()}
        for engine in engines:
            set_gradient_checkpointing(engine, True)
        for name, run in runs.items():
            again = _peak(live, run) if name in ("update", "ptx") else kept[name]
            parts[name] = Part(kept[name][0], again[0], max(kept[name][1], again[1]))
    largest = max(sum(p.nbytes for p in module.parameters()) for module in models.modules())
    return Held(1 + len(rewards), len(engines), weights, trained, element, largest, parts)
