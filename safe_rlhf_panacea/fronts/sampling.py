"""Responses at every λ of a grid in one pass over the prompts, and what they earn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.losses import summed_log_ratios
from safe_rlhf_panacea.forward import SamplingConfig, across, generate, log_probs, response_tokens
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.runs.progress import progress_bar

Rewards = Callable[[Responses], torch.Tensor]  # size = (B, m)


@dataclass(frozen=True)
class Prompt:
    """A prompt as people read it, its token ids, and the raw sample it comes from, if known."""

    text: str
    input_ids: Sequence[int]
    example: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sampled:
    """Responses to P prompts at N preference vectors.

    Attributes:
        texts: N lists of P responses.
        rewards: size = (N, P, m), float64; m = 0 without rewards; NaN where an objective does not
            count for a response.
        log_ratios: log π_λ(y|x)/π_ref(y|x) of every response, size = (N, P), float64; 0 for the
            reference itself.
        extra: what reward functions have logged of every response, by column, as plain values.
    """

    texts: list[list[str]]
    rewards: torch.Tensor
    log_ratios: torch.Tensor
    extra: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Policy:
    """A policy, and how its responses are drawn when it is measured.

    Attributes:
        model: the module itself.
        adapter: its adapter; None: the model alone.
        tokenizer: its tokenizer.
        sampling: how responses are drawn.
        seed: of the sampling, so that evaluations differ by the policy and not by luck. (With
            top_p, a repetition penalty or sharded weights the points of one front do not share
            their luck.)
        prompts_per_batch: each forward pass has N times as many rows.
        pairs_per_batch: pairs read at a time.
        progress: whether to show bars.
    """

    model: nn.Module
    adapter: PanaceaAdapter | None
    tokenizer: Any
    sampling: SamplingConfig
    seed: int = 0
    prompts_per_batch: int = 32
    pairs_per_batch: int = 32
    progress: bool = True


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of prompts, size = (B, S) each."""
    width = max(map(len, prompts))
    rows = [[pad] * (width - len(ids)) + list(ids) for ids in prompts]
    mask = [[False] * (width - len(ids)) + [True] * len(ids) for ids in prompts]
    return torch.tensor(rows), torch.tensor(mask)


@torch.no_grad()
def sample_over_grid(
    model: Any,
    adapter: PanaceaAdapter | None,
    input_ids: torch.Tensor,  # size = (B, S)
    attention_mask: torch.Tensor,  # size = (B, S)
    grid: torch.Tensor,  # size = (N, m)
    config: SamplingConfig,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Responses to every prompt at every λ in one batch, with one λ per sample.

    The grid points share their random numbers prompt by prompt, so that the points of a front
    differ by λ and not by luck.

    Returns:
        Sequences and mask, size = (N·B, L) each, and ``response_log_ratios``, size = (N·B,),
        which are 0 without an adapter; row ``n · B + b`` is prompt b at λ n.
    """
    points, (batch, width) = grid.size(0), input_ids.shape
    rows = grid.repeat_interleave(batch, dim=0)
    with nullcontext() if adapter is None else adapter.at(rows):
        sequences, attended = generate(
            model,
            input_ids.repeat(points, 1),
            attention_mask.repeat(points, 1),
            config,
            generator=generator,
            noise_copies=points,
        )
        if adapter is None:
            return sequences, attended, torch.zeros(points * batch)
        temperature = config.temperature or 1.0  # a greedy policy's at 1, as in training
        ratios = response_log_ratios(model, adapter, sequences, attended, width, temperature)
        return sequences, attended, ratios


@torch.no_grad()
def response_log_ratios(
    model: Any,
    adapter: PanaceaAdapter,
    sequences: torch.Tensor,  # size = (B, L)
    attended: torch.Tensor,  # size = (B, L)
    prompt_length: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """log π_λ(y|x)/π_ref(y|x) at the λ that is set; the reference is the adapter switched off.

    Both are taken at a temperature: at that of sampling, the mean over responses drawn from π_λ
    estimates KL(π_λ ‖ π_ref) in nats.

    Returns:
        size = (B,), float32.
    """
    start = prompt_length - 1
    inputs = (model, sequences, attended, response_tokens(attended, start))
    policy = log_probs(*inputs, temperature=temperature)  # size = (B, L - 1)
    with adapter.disabled():
        reference = log_probs(*inputs, temperature=temperature)
    mask = attended[:, prompt_length:]
    return summed_log_ratios(policy[:, start:], reference[:, start:], mask)


@torch.no_grad()
def sample_rewards(
    policy: Policy,
    rewards: Rewards | None,
    prompts: Sequence[Prompt],
    grid: torch.Tensor,
    generator: torch.Generator,
    label: str = "",
) -> Sampled:
    """Sample a response to every prompt at every λ, score it, compare it with the reference.

    Args:
        policy: in evaluation mode; without an adapter it is the reference.
        rewards: of responses, size = (B, m); None: m = 0.
        prompts: P of them.
        grid: preference vectors, size = (N, m).
        generator: of the sampling, on the model's device.
        label: beside the bar.
    """
    model, adapter, tokenizer = policy.model, policy.adapter, policy.tokenizer
    grid = grid.to(next(model.parameters()).device)
    points, earned, ratios = len(grid), [], []
    texts: list[list[str]] = [[] for _ in grid]
    extra: list[list[dict[str, Any]]] = [[] for _ in grid]
    title = f"Evaluating {label}".strip()
    bar = progress_bar(total=len(prompts), desc=title, disable=not policy.progress)
    for start in range(0, len(prompts), policy.prompts_per_batch):
        chunk = prompts[start : start + policy.prompts_per_batch]
        padded = pad_left([prompt.input_ids for prompt in chunk], tokenizer.pad_token_id)
        input_ids, mask = (tensor.to(grid.device) for tensor in padded)
        sequences, attended, found = sample_over_grid(
            model, adapter, input_ids, mask, grid, policy.sampling, generator
        )
        width, rows = input_ids.size(1), (points, len(chunk))
        ratios.append(found.view(rows).double().cpu())
        scores, logged = torch.empty(sequences.size(0), 0), {}
        if rewards is not None:
            examples = [prompt.example for prompt in chunk if prompt.example is not None]
            known = examples * points if len(examples) == len(chunk) else None
            groups = across(len(sequences), points)  # of a prompt at every λ, size = (B, N)
            responses = Responses(sequences, attended, width, known, groups)
            scores, logged = rewards(responses), responses.extra  # size = (N·B, m)
        earned.append(scores.double().view(*rows, -1).cpu())
        decoded = tokenizer.batch_decode(sequences[:, width:], skip_special_tokens=True)
        for index, text in enumerate(decoded):
            texts[index // len(chunk)].append(text.strip())
            row = {column: _plain(values[index]) for column, values in logged.items()}
            extra[index // len(chunk)].append(row)
        bar.update(len(chunk))
    bar.close()
    return Sampled(texts, torch.cat(earned, dim=1), torch.cat(ratios, dim=1), extra)


def _plain(value: Any) -> str | float | int | None:
    """A value as JSON has it; what it has no form for as text."""
    odd = isinstance(value, float) and not math.isfinite(value)
    return value if isinstance(value, str | float | int | None) and not odd else str(value)
