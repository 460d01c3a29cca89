"""The front of mean rewards: every grid point in one pass over the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.generation import SamplingConfig, sample
from safe_rlhf_panacea.base.log_probs import response_log_probs
from safe_rlhf_panacea.base.progress import progress_bar
from safe_rlhf_panacea.evaluation.front import Front, grid_points

# Token ids, mask and width of the prompts to rewards, size = (B, m).
Rewards = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Response:
    """One sampled response with the λ it was drawn at and what it earned."""

    prompt: str
    response: str
    preference: tuple[float, ...]
    rewards: tuple[float, ...]


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded token ids and mask of formatted prompts, size = (B, S) each."""
    tokenizer.padding_side = "left"
    encoded = tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    return encoded["input_ids"], encoded["attention_mask"].bool()


def _pad_left(prompts: Sequence[Prompt], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, size = (B, S) each."""
    width = max(len(prompt.input_ids) for prompt in prompts)
    rows = [[pad] * (width - len(p.input_ids)) + list(p.input_ids) for p in prompts]
    mask = [[False] * (width - len(p.input_ids)) + [True] * len(p.input_ids) for p in prompts]
    return torch.tensor(rows), torch.tensor(mask)


def _chunks(items: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


@torch.no_grad()
def sample_over_grid(
    model: Any,
    adapter: PanaceaAdapter | None,
    input_ids: torch.Tensor,  # size = (B, S)
    attention_mask: torch.Tensor,  # size = (B, S)
    grid: torch.Tensor,  # size = (N, m)
    config: SamplingConfig,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Responses to every prompt at every λ in one batch, with one λ per sample.

    The grid points share their random numbers prompt by prompt, so that the points of a front
    differ by λ and not by luck.

    Returns:
        sequences and mask, size = (N·B, L) each; row ``n · B + b`` is prompt b at λ n.
    """
    points, batch = grid.size(0), input_ids.size(0)
    if adapter is not None and adapter.pref_dim > 0:
        adapter.set_preference(grid.repeat_interleave(batch, dim=0))
    return sample(
        model,
        input_ids.repeat(points, 1),
        attention_mask.repeat(points, 1),
        config,
        generator=generator,
        noise_copies=points,
    )


@dataclass(frozen=True)
class Prompt:
    """A formatted prompt and its token ids."""

    text: str
    input_ids: Sequence[int]


@dataclass(frozen=True)
class Sampled:
    """What sampling over a grid found.

    Attributes:
        values: rewards, size = (N, P, m), float64.
        log_ratios: log π_λ(y|x)/π_ref(y|x) of every response, size = (N, P), float64; None if
            not asked for.
        responses: N responses to each of P prompts.
    """

    values: torch.Tensor
    log_ratios: torch.Tensor | None
    responses: list[Response]


@torch.no_grad()
def response_log_ratios(
    model: Any,
    adapter: PanaceaAdapter,
    sequences: torch.Tensor,  # size = (B, L)
    attended: torch.Tensor,  # size = (B, L)
    prompt_length: int,
) -> torch.Tensor:
    """log π_λ(y|x)/π_ref(y|x) at the λ that is set; the reference is the adapter switched off.

    Its mean over responses drawn from π_λ estimates KL(π_λ ‖ π_ref) in nats.

    Returns:
        size = (B,), float32.
    """
    start = prompt_length - 1
    policy = response_log_probs(model, sequences, attended, start)  # size = (B, L - 1)
    with adapter.disabled():
        reference = response_log_probs(model, sequences, attended, start)
    return ((policy - reference) * attended[:, 1:])[:, start:].sum(dim=-1)


@torch.no_grad()
def sample_rewards(
    model: Any,
    adapter: PanaceaAdapter | None,
    tokenizer: Any,
    rewards: Rewards | None,
    prompts: Sequence[Prompt],
    grid: torch.Tensor,
    config: SamplingConfig,
    *,
    generator: torch.Generator,
    prompts_per_batch: int,
    log_ratios: bool = False,
    label: str = "",
    progress: bool = True,
) -> Sampled:
    """Sample a response to every prompt at every λ, and score it.

    Arguments are ``evaluate_reward_front``'s, but for ``rewards``, of which None leaves m = 0,
    ``generator``, of the sampling, on the model's device, and ``log_ratios``, whether to measure
    how far the policy is from its reference, for which there must be an adapter.
    """
    grid = grid.to(next(model.parameters()).device)
    columns, ratios = [], []
    responses: list[Response] = []
    bar = progress_bar(total=len(prompts), desc=f"Evaluating {label}".strip(), disable=not progress)
    for chunk in _chunks(prompts, prompts_per_batch):
        texts = [prompt.text for prompt in chunk]
        padded = _pad_left(chunk, tokenizer.pad_token_id)
        input_ids, mask = (tensor.to(grid.device) for tensor in padded)
        sequences, attended = sample_over_grid(
            model, adapter, input_ids, mask, grid, config, generator
        )
        width, rows = input_ids.size(1), (grid.size(0), len(texts))
        if log_ratios:
            found = response_log_ratios(model, adapter, sequences, attended, width)
            ratios.append(found.double().view(rows).cpu())
        earned = torch.empty(sequences.size(0), 0)
        if rewards is not None:
            earned = rewards(sequences, attended, width)  # size = (N·B, m)
        columns.append(earned.double().view(*rows, -1).cpu())
        responses += _decode(tokenizer, texts, sequences[:, width:], grid, earned)
        bar.update(len(texts))
    bar.close()
    joined = torch.cat(ratios, dim=1) if log_ratios else None
    return Sampled(torch.cat(columns, dim=1), joined, responses)


@torch.no_grad()
def evaluate_reward_front(
    model: Any,
    adapter: PanaceaAdapter | None,
    tokenizer: Any,
    rewards: Rewards,
    prompts: Sequence[str],
    grid: torch.Tensor,
    config: SamplingConfig,
    *,
    objectives: Sequence[str],
    seed: int = 0,
    prompts_per_batch: int = 32,
    label: str = "",
    progress: bool = True,
) -> tuple[Front, list[Response]]:
    """Mean reward per objective of sampled responses at every λ.

    Args:
        model: the policy; it is put into evaluation mode.
        adapter: the policy's adapter, or None for a model without λ.
        tokenizer: the policy's.
        rewards: token ids, mask and width of the prompts to rewards, size = (B, m).
        prompts: formatted prompts, as the model reads them.
        grid: preference vectors, size = (N, m).
        config: how responses are drawn.
        objectives: names, in the order of λ.
        seed: of the sampling.
        prompts_per_batch: each forward pass has N times as many rows.
        label: the front's name in tables and pictures.
        progress: whether to show a bar.

    Returns:
        The front, with standard errors over prompts, and every response.
    """
    model.eval()
    device = next(model.parameters()).device
    encoded = tokenizer(list(prompts), return_attention_mask=False)["input_ids"]
    sampled = sample_rewards(
        model,
        adapter,
        tokenizer,
        rewards,
        [Prompt(text, ids) for text, ids in zip(prompts, encoded, strict=True)],
        grid,
        config,
        generator=torch.Generator(device=device).manual_seed(seed),
        prompts_per_batch=prompts_per_batch,
        label=label,
        progress=progress,
    )
    return mean_front(sampled.values, grid, objectives, label), sampled.responses


def mean_front(
    values: torch.Tensor, grid: torch.Tensor, objectives: Sequence[str], label: str = ""
) -> Front:
    """Means over prompts, with their standard errors.

    Args:
        values: size = (N, P, m), float64.
        grid: size = (N, m).
        objectives: names, in the order of λ.
        label: the front's name.
    """
    means = values.mean(dim=1)  # size = (N, m)
    count = values.size(1)  # of one value nothing is known but the value
    errors = values.std(dim=1) / count**0.5 if count > 1 else torch.zeros_like(means)
    return Front(list(objectives), grid_points(grid, means, errors), label)


def _decode(
    tokenizer: Any,
    texts: Sequence[str],
    tokens: torch.Tensor,  # size = (N·B, T)
    grid: torch.Tensor,
    earned: torch.Tensor,
) -> list[Response]:
    decoded = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    preferences = [tuple(row) for row in grid.cpu().double().round(decimals=6).tolist()]
    rewards = [tuple(row) for row in earned.cpu().tolist()]
    return [
        Response(texts[i % len(texts)], text.strip(), preferences[i // len(texts)], rewards[i])
        for i, text in enumerate(decoded)
    ]
