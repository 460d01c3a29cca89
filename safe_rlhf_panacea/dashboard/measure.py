"""Measuring a policy in the middle of its training, on all processes at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.distributed import all_gather_objects, get_rank, get_world_size
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.base.generation import SamplingConfig
from safe_rlhf_panacea.evaluation.accuracy_front import margins_of_pairs
from safe_rlhf_panacea.evaluation.reward_front import (
    Prompt,
    Response,
    Rewards,
    Sampled,
    sample_rewards,
)

RESPONSES_SHOWN = 4  # prompts whose responses are kept


@dataclass(frozen=True)
class Policy:
    """A policy as it is measured.

    Attributes:
        model: the module itself, in evaluation mode.
        adapter: its adapter.
        tokenizer: its tokenizer.
        sampling: how responses are drawn.
        rows: sequences in one forward pass, where the grid has not more.
        seed: of the sampling, so that evaluations differ by the policy and not by luck. (With
            top_p, a repetition penalty or sharded weights the points of one front do not share
            their luck.)
        progress: whether to show bars.
    """

    model: nn.Module
    adapter: PanaceaAdapter
    tokenizer: Any
    sampling: SamplingConfig
    rows: int
    seed: int
    progress: bool = True


def own_share(total: int) -> list[int]:
    """Indices that this process works on; all have equally many, so a few may come twice."""
    world = get_world_size()
    return [i % total for i in range(get_rank(), math.ceil(total / world) * world, world)]


def _together(part: torch.Tensor, dim: int, total: int) -> torch.Tensor:
    """What all processes found for their shares, in the order of the whole."""
    parts = all_gather_objects(part)
    return torch.stack(parts, dim=dim + 1).flatten(dim, dim + 1).narrow(dim, 0, total)


def sample_grid(
    policy: Policy, rewards: Rewards | None, prompts: Sequence[Prompt], grid: torch.Tensor
) -> Sampled:
    """A response to every prompt at every λ, with rewards and log-ratios to the reference.

    Args:
        policy: what is measured.
        rewards: token ids, mask and width of the prompts to rewards, size = (B, m), or None.
        prompts: P of them.
        grid: preference vectors, size = (N, m).
    """
    sampled = _sample(policy, rewards, prompts, grid, policy.adapter)
    values = _together(sampled.values, 1, len(prompts))
    assert sampled.log_ratios is not None
    ratios = _together(sampled.log_ratios, 1, len(prompts))
    shown = {prompt.text for prompt in prompts[:RESPONSES_SHOWN]}
    mine = [response for response in sampled.responses if response.prompt in shown]
    responses = [response for part in all_gather_objects(mine) for response in part]
    return Sampled(values, ratios, responses)


def sample_base(
    policy: Policy, rewards: Rewards, prompts: Sequence[Prompt], points: int
) -> torch.Tensor:
    """Rewards of the model with its adapter off, size = (P, m).

    ``points`` is the grid's N: batches of as many prompts see the same random numbers.
    """
    alike = replace(policy, rows=max(1, policy.rows // points))
    with policy.adapter.disabled():
        # One row in place of a λ that the model without its adapter does not see.
        sampled = _sample(alike, rewards, prompts, torch.empty(1, 0), None)
    return _together(sampled.values, 1, len(prompts))[0]


def _sample(
    policy: Policy,
    rewards: Rewards | None,
    prompts: Sequence[Prompt],
    grid: torch.Tensor,
    adapter: PanaceaAdapter | None,
) -> Sampled:
    device = next(policy.model.parameters()).device
    seed = policy.seed + get_rank()
    torch.manual_seed(seed)  # transformers' sampling (top_p and the like) knows no generator
    return sample_rewards(
        policy.model,
        adapter,
        policy.tokenizer,
        rewards,
        [prompts[i] for i in own_share(len(prompts))],
        grid,
        policy.sampling,
        generator=torch.Generator(device=device).manual_seed(seed),
        prompts_per_batch=max(1, policy.rows // grid.size(0)),
        log_ratios=adapter is not None,
        progress=policy.progress,
    )


def pair_margins(
    policy: Policy, dataset: Any, grid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins of log-ratios between the responses of every pair, and the pairs' labels.

    Returns:
        size = (N, P) and (P, m), float64.
    """
    margins, labels = margins_of_pairs(
        policy.model,
        policy.adapter,
        dataset,
        own_share(len(dataset)),
        grid,
        pairs_per_batch=max(1, policy.rows // 2),
        rows_per_forward=policy.rows,
        progress=policy.progress,
    )
    return _together(margins, 1, len(dataset)), _together(labels, 0, len(dataset))


def singular_values(adapter: PanaceaAdapter) -> list[dict[str, Any]]:
    """Name, σ and s of every adapted matrix; s is what it is fixed at, or empty without λ."""
    found = []
    with gathered(adapter.parameters()):
        for name, layer in adapter.layers.items():
            s: list[float] = []
            if layer.lora_s is not None:
                s = layer.lora_s.detach().float().tolist()
            elif adapter.config.fixed_scaling is not None and adapter.pref_dim > 0:
                s = [adapter.config.fixed_scaling]
            sigma = layer.lora_sigma.detach().float().tolist()
            found.append({"matrix": name, "sigma": sigma, "s": s})
    return found


class NotFiniteError(ArithmeticError):
    """The policy or its rewards are not finite: there is no front to show."""


def check_finite(*found: torch.Tensor | None) -> None:
    """Refuse what cannot be shown; all processes have the same tensors, and so the same answer.

    Raises:
        NotFiniteError: a NaN or an infinity among them.
    """
    if not all(tensor is None or tensor.isfinite().all() for tensor in found):
        raise NotFiniteError


def shown_responses(
    sampled: Sampled, prompts: Sequence[Prompt], grid: torch.Tensor
) -> list[dict[str, Any]]:
    """The responses to the first few prompts, prompt by prompt, each with its log-ratio."""
    assert sampled.log_ratios is not None
    order = {tuple(row): n for n, row in enumerate(grid.double().round(decimals=6).tolist())}
    found: dict[Any, Response] = {}
    for response in sampled.responses:  # rank by rank; those that fill up the last share come late
        found.setdefault((response.prompt, tuple(response.preference)), response)
    rows = []
    for index, prompt in enumerate(prompts[:RESPONSES_SHOWN]):
        for preference, n in order.items():
            response = found[prompt.text, preference]
            ratio = sampled.log_ratios[n, index].item()
            rows.append({**vars(response), "log_ratio": round(ratio, 4)})
    return rows
