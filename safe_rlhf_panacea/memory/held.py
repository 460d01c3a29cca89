"""What the models of a training and the parts of its step hold, by running them without memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from safe_rlhf_panacea.adapter import AdapterConfig, PanaceaAdapter
from safe_rlhf_panacea.adapter.frozen import onednn_is_faster
from safe_rlhf_panacea.base.engine import set_gradient_checkpointing
from safe_rlhf_panacea.forward import PassOptions, log_probs, set_pass_options
from safe_rlhf_panacea.forward.decoding import preallocated_cache
from safe_rlhf_panacea.forward.generation import invert
from safe_rlhf_panacea.memory.models import LiveBytes, Meter, Models
from safe_rlhf_panacea.memory.options import MemoryOptions


@dataclass(frozen=True)
class Tokens:
    """A padded batch; ``ids`` and ``mask`` are size = (B, L), ``counted`` is (B, L - 1)."""

    ids: torch.Tensor
    mask: torch.Tensor
    counted: torch.Tensor

    @classmethod
    def of_lengths(cls, lengths: list[int], device: str = "cpu", prompt_length: int = 1) -> Tokens:
        """Rows of so many tokens each, padded on the right; those of the prompt do not count."""
        ends = torch.tensor(lengths, device=device).unsqueeze(1)
        mask = torch.arange(max(lengths), device=device) < ends
        counted = mask[:, 1:].clone()
        counted[:, : prompt_length - 1] = False
        return cls(torch.zeros(mask.shape, dtype=torch.long, device=device), mask, counted)


def lengths_of(rows: int, max_length: int, mean_length: float) -> list[int]:
    """One row of the largest length, the others so that the mean is right: padding is not free."""
    if rows == 1:
        return [max_length]
    rest = (mean_length * rows - max_length) / (rows - 1)
    return [max_length] + [min(max_length, max(1, round(rest)))] * (rows - 1)


def reference_pass(policy: Any, adapter: PanaceaAdapter, tokens: Tokens) -> None:
    """The model with its adapter off, nothing kept."""
    with torch.no_grad(), adapter.disabled():
        log_probs(policy, tokens.ids, tokens.mask, tokens.counted)


def policy_step(policy: Any, tokens: Tokens) -> None:
    """Forward and backward pass of a policy."""
    log_probs(policy, tokens.ids, tokens.mask, tokens.counted).sum().backward()


def actor_critic_step(policy: Any, critic: Any, tokens: Tokens) -> None:
    """Panacea-PPO's, one after the other."""
    policy_step(policy, tokens)
    critic(tokens.ids, attention_mask=tokens.mask).scores.float().sum().backward()


@torch.no_grad()
def score(reward: Any, tokens: Tokens, **role: str) -> None:
    """A reward model's pass."""
    reward(tokens.ids, attention_mask=tokens.mask, **role)


@torch.no_grad()
def generate(policy: Any, rows: int, max_length: int) -> None:
    """The cache of a whole generation, and one forward pass that fills half of it."""
    cache = preallocated_cache(policy.config, max_length)
    tokens = Tokens.of_lengths([max(1, max_length // 2)] * rows, str(policy.device))
    logits = policy(
        input_ids=tokens.ids,
        attention_mask=tokens.mask.long(),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    invert(logits.float().softmax(dim=-1), torch.rand(rows, dtype=torch.float64).to(logits.device))


@dataclass(frozen=True)
class Part:
    """A part of a training step: bytes above what is there all the time, at most.

    Attributes:
        kept: activations of the whole pass stay for the backward pass.
        recomputed: with gradient checkpointing.
        logits: in tensors as wide as the vocabulary, of either.
    """

    kept: int
    recomputed: int
    logits: int


@dataclass(frozen=True)
class Held:
    """Everything, in bytes, as one card without ZeRO has it.

    Attributes:
        models: backbones.
        engines: trained models, each with an optimiser.
        weights: of all models, buffers included, adapters not.
        trained: elements of adapters and value head.
        element: bytes of a weight.
        largest: bytes of the largest model.
        parts: of the step, by name.
    """

    models: int
    engines: int
    weights: int
    trained: int
    element: int
    largest: int
    parts: dict[str, Part]


def _planned(args: MemoryOptions) -> PassOptions:
    """Passes as they would be cut, and attend, on the device that is planned for."""
    device = torch.device(args.device)
    longest = PassOptions(args.max_tokens_per_pass).most_tokens(device)
    return PassOptions(longest, write_out_attention=device.type == "cpu")


def _generate(models: Models, args: MemoryOptions, rows: int) -> None:
    """As trainers do: in float32 one λ is merged, in lower precision not."""
    if models.dtype is torch.float32 and args.zero_stage < 3:
        with models.adapters[0].merged(models.state.value):
            generate(models.policy, rows, args.max_length)
    else:
        generate(models.policy, rows, args.max_length)


def _score(models: Models, tokens: Tokens) -> None:
    reference_pass(models.policy, models.adapters[0], tokens)
    for index, reward in enumerate(models.rewards):
        if index == 0 and models.critic is not None:
            score(models.critic, tokens, role="reward")
        else:
            score(reward, tokens)


def _parts(models: Models, args: MemoryOptions) -> dict[str, Callable[[], None]]:
    """The parts of a step by name, in their order."""
    rows = args.per_device_train_batch_size
    sequences = 2 * rows if args.algorithm == "dpo" else rows
    mean = args.mean_length or args.max_length
    policy, adapter = models.policy, models.adapters[0]
    lengths = lengths_of(sequences, args.max_length, mean)
    tokens = Tokens.of_lengths(lengths, str(policy.device), args.prompt_length)
    update = partial(policy_step, policy, tokens)
    if args.algorithm == "sft":
        return {"update": update}
    if args.algorithm == "dpo":
        return {"reference": partial(reference_pass, policy, adapter, tokens), "update": update}
    drawn = rows
    if args.algorithm == "ppo":
        drawn = min(rows, args.per_device_prompt_batch_size) * args.group
        update = partial(actor_critic_step, policy, models.critic, tokens)
    found: dict[str, Callable[[], None]] = {
        "generation": partial(_generate, models, args, drawn),
        "scoring": partial(_score, models, tokens),
        "update": update,
    }
    if args.ptx:
        found["ptx"] = partial(policy_step, policy, tokens)
    return found


def _peak(live: Meter, run: Callable[[], None]) -> tuple[int, int]:
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
    meter: Meter | None = None,
    device: str | None = None,
) -> Held:
    """Run every part of a step, with recomputation where there are gradients and without.

    Args:
        args: the training that is planned.
        policy: transformers' configuration of the policy.
        rewards: those of the reward models; none for functions.
        meter: what counts; default: ``LiveBytes``.
        device: where to run it with real, random weights; None: without memory.
    """
    names = tuple(f"objective-{i}" for i in range(args.objectives))
    config = AdapterConfig(
        args.lora_dim, args.objectives, lora_module_name=args.lora_module_name, objectives=names
    )
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    live = meter or LiveBytes(policy.get_text_config().vocab_size)
    models = Models(config, dtype)
    onednn_is_faster()  # now: what it measures with belongs to no part of a step
    with live:
        models.make(policy, rewards, critic=args.algorithm == "ppo", device=device)
        for model in models.modules():
            set_pass_options(model, _planned(args))
        gc.collect()
        trained = sum(p.numel() for p in models.trained())
        weights = live.now - 2 * trained * dtype.itemsize  # the gradients are there, too
        engines = [m for m in (models.policy, models.critic) if m is not None]
        peaks: dict[str, list[tuple[int, int]]] = {}
        for recomputed in (False, True):
            for engine in engines:
                engine.train()
                if recomputed:
                    set_gradient_checkpointing(engine, True)
            for name, run in _parts(models, args).items():
                if recomputed and name not in ("update", "ptx"):
                    peaks[name] *= 2  # nothing to recompute
                else:
                    peaks.setdefault(name, []).append(_peak(live, run))
    return Held(
        models=1 + len(rewards),
        engines=len(engines),
        weights=weights,
        trained=trained,
        element=dtype.itemsize,
        largest=max(_bytes(module) for module in models.modules()),
        parts={
            name: Part(kept, recomputed, max(wide, again))
            for name, ((kept, wide), (recomputed, again)) in peaks.items()
        },
    )


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
