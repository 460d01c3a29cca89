"""What a policy does at every λ of a grid: its responses, margins of pairs, log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.losses import Pairs, summed_log_ratios
from safe_rlhf_panacea.forward import (
    SamplingConfig,
    across,
    answer_log_probs,
    generate,
    log_probs,
    response_tokens,
)
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.runs.logger import progress_bar

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

    ``rewards`` are NaN where an objective does not count for a response; without rewards m = 0.
    ``log_ratios`` are log π_λ(y|x)/π_ref(y|x) of every response, 0 for the reference itself.
    """

    texts: list[list[str]]  # N lists of P
    rewards: torch.Tensor  # size = (N, P, m), float64
    log_ratios: torch.Tensor  # size = (N, P), float64
    # What reward functions have logged of every response, by column, as plain values.
    extra: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Policy:
    """A policy, and how its responses are drawn when it is measured.

    With one ``seed`` evaluations differ by the policy and not by luck. (With top_p, a repetition
    penalty or sharded weights the points of one front do not share their luck.)
    """

    model: nn.Module
    adapter: PanaceaAdapter | None  # None: the model alone
    tokenizer: Any
    sampling: SamplingConfig
    seed: int = 0
    prompts_per_batch: int = 32  # each forward pass has N times as many rows
    pairs_per_batch: int = 32
    progress: bool = True  # whether to show bars


def batches(rows: Sequence[Any], size: int, title: str, progress: bool) -> Iterator[Sequence[Any]]:
    """Parts of ``rows`` with at most ``size`` of them; a bar counts them if ``progress`` is set."""
    bar = progress_bar(total=len(rows), desc=title.strip(), disable=not progress)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield part
        bar.update(len(part))
    bar.close()


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of prompts, size = (B, S) each."""
    width = max(map(len, prompts))
    rows = [[pad] * (width - len(ids)) + list(ids) for ids in prompts]
    mask = [[False] * (width - len(ids)) + [True] * len(ids) for ids in prompts]
    return torch.tensor(rows), torch.tensor(mask)


@torch.no_grad()
def sample_over_grid(
    policy: Policy,
    input_ids: torch.Tensor,  # size = (B, S)
    attention_mask: torch.Tensor,  # size = (B, S)
    grid: torch.Tensor,  # size = (N, m)
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Responses to every prompt at every λ in one batch, with one λ per sample.

    The grid points share their random numbers prompt by prompt, so that the points of a front
    differ by λ and not by luck.

    Returns:
        Sequences and mask, size = (N·B, L) each, and log π_λ(y|x)/π_ref(y|x), size = (N·B,), which
        are 0 without an adapter; row ``n · B + b`` is prompt b at λ n. Both are taken at the
        temperature of sampling, so that their mean estimates KL(π_λ ‖ π_ref) in nats.
    """
    model, adapter, config = policy.model, policy.adapter, policy.sampling
    points, (batch, width) = grid.size(0), input_ids.shape
    ids, mask = input_ids.repeat(points, 1), attention_mask.repeat(points, 1)
    draw = partial(generate, generator=generator, noise_copies=points)
    if adapter is None:
        return *draw(model, ids, mask, config), torch.zeros(points * batch)
    rows = grid.repeat_interleave(batch, dim=0)
    temperature = config.temperature or 1.0  # a greedy policy's at 1, as in training
    start = width - 1
    with adapter.at(rows):
        sequences, attended = draw(model, ids, mask, config)
        inputs = (model, sequences, attended, response_tokens(attended, start))
        own = log_probs(*inputs, temperature=temperature)  # size = (N·B, L - 1)
        with adapter.disabled():
            reference = log_probs(*inputs, temperature=temperature)
    ratios = summed_log_ratios(own[:, start:], reference[:, start:], attended[:, width:])
    return sequences, attended, ratios


@torch.no_grad()
def sample_rewards(
    policy: Policy,  # in evaluation mode; without an adapter it is the reference
    rewards: Rewards | None,  # None: m = 0
    prompts: Sequence[Prompt],
    grid: torch.Tensor,  # size = (N, m)
    generator: torch.Generator,  # on the model's device
    label: str = "",  # beside the bar
) -> Sampled:
    """Sample a response to every prompt at every λ, score it, compare it with the reference."""
    tokenizer, earned, ratios = policy.tokenizer, [], []
    grid = grid.to(next(policy.model.parameters()).device)
    texts: list[list[str]] = [[] for _ in grid]
    extra: list[list[dict[str, Any]]] = [[] for _ in grid]
    size, title = policy.prompts_per_batch, f"Evaluating {label}"
    for chunk in batches(prompts, size, title, policy.progress):
        padded = pad_left([prompt.input_ids for prompt in chunk], tokenizer.pad_token_id)
        input_ids, mask = (tensor.to(grid.device) for tensor in padded)
        sequences, attended, found = sample_over_grid(policy, input_ids, mask, grid, generator)
        width, rows = input_ids.size(1), (len(grid), len(chunk))
        ratios.append(found.view(rows).double().cpu())
        scores, logged = torch.empty(sequences.size(0), 0), {}
        if rewards is not None:
            examples = [prompt.example for prompt in chunk if prompt.example is not None]
            known = examples * len(grid) if len(examples) == len(chunk) else None
            groups = across(len(sequences), len(grid))  # of a prompt at every λ, size = (B, N)
            responses = Responses(sequences, attended, width, known, groups)
            scores, logged = rewards(responses), responses.extra  # size = (N·B, m)
        earned.append(scores.double().view(*rows, -1).cpu())
        decoded = tokenizer.batch_decode(sequences[:, width:], skip_special_tokens=True)
        for index, text in enumerate(decoded):
            texts[index // len(chunk)].append(text.strip())
            row = {column: _plain(values[index]) for column, values in logged.items()}
            extra[index // len(chunk)].append(row)
    return Sampled(texts, torch.cat(earned, dim=1), torch.cat(ratios, dim=1), extra)


def _plain(value: Any) -> str | float | int | None:
    """A value as JSON has it; what it has no form for as text."""
    odd = isinstance(value, float) and not math.isfinite(value)
    return value if isinstance(value, str | float | int | None) and not odd else str(value)


def _off_and_at(
    adapter: PanaceaAdapter, grid: torch.Tensor, score: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """What ``score`` gives with the adapter off, then at N λ, size = (1 + N, ...)."""
    with adapter.disabled():
        found = [score()]
    for preference in grid:
        with adapter.at(preference):
            found.append(score())
    return torch.stack(found)


@torch.no_grad()
def margins_over_grid(
    model: Any, adapter: PanaceaAdapter, batch: dict[str, torch.Tensor], grid: torch.Tensor
) -> torch.Tensor:
    """log π/π_ref of the better response minus that of the worse, at every λ, size = (N, B).

    ``batch`` has B collated pairs of a ``PreferenceDataset``; the adapter switched off gives the
    reference, once for all λ of ``grid``, size = (N, m).
    """
    pairs = Pairs.of(batch)
    # Cut alike with the adapter and without: at W0 every margin is a tie, to the last bit.
    sums = _off_and_at(adapter, grid, lambda: log_probs(model, *pairs).sum(dim=-1))  # (1 + N, 2B)
    better_ratios, worse_ratios = (sums[1:] - sums[0]).chunk(2, dim=1)  # size = (N, B) each
    return better_ratios - worse_ratios


@torch.no_grad()
def likelihoods_over_grid(
    model: Any, adapter: PanaceaAdapter, batch: dict[str, torch.Tensor], grid: torch.Tensor
) -> torch.Tensor:
    """Mean log-probability per token of B answers: adapter off, then at N λ, size = (1 + N, B)."""
    texts = [batch[key] for key in ("input_ids", "labels", "attention_mask")]  # size = (B, L)

    def score() -> torch.Tensor:
        sums, tokens = answer_log_probs(model, *texts)
        return sums / tokens

    return _off_and_at(adapter, grid, score)


@torch.no_grad()
def over_rows(
    over_grid: Callable[..., torch.Tensor],  # one of the two above
    model: Any,
    adapter: PanaceaAdapter,
    dataset: Any,  # a ``PreferenceDataset``, or supervised texts
    indices: Sequence[int],  # of Q rows
    grid: torch.Tensor,  # size = (N, m)
    *,
    rows: int,  # of a batch, at most
    label: str = "",  # beside the bar
    progress: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a function finds for rows of a data set, and their labels; float64 on the CPU.

    Margins, size = (N, Q), and labels (+1, -1, or 0 for none), size = (Q, m); or likelihoods,
    size = (1 + N, Q), and whether they count (1 or 0).
    """
    device = next(model.parameters()).device
    grid, collate = grid.to(device), dataset.get_collator()
    found, labels = [], []
    key = "labels" if over_grid is margins_over_grid else "labelled"
    for part in batches(indices, rows, f"Evaluating {label}", progress):
        collated = collate([dataset[index] for index in part])
        batch = {name: tensor.to(device) for name, tensor in collated.items()}
        found.append(over_grid(model, adapter, batch, grid).double().cpu())
        labels.append(batch[key].double().cpu())
    return torch.cat(found, dim=1), torch.cat(labels)
