"""Advantages of groups of responses under m rewards, which λ makes one.

The G responses to a prompt are a group; their mean reward stands where PPO has a critic.

λ comes in as the weights w = ∂g_λ/∂J of the m objectives (``aggregation.objective_weights``) at
the mean rewards J: the policy gradient of g_λ(J_1 … J_m), Eq. 6 and 7, is Σ_i w_i ∇J_i. So
Tchebycheff follows the one objective whose weighted gap is the widest, and smooth Tchebycheff all
of them, the widest gap most. Eq. 13, which Panacea-PPO follows, takes the minimum over objectives
of every single response instead. That has no counterpart for rewards that are normalised one by
one, which have lost their distance to the ideal point; and Eq. 7 has its expectations inside, as
the DPO loss here has (Eq. 16). J is the mean over the batch where that has one λ, over the group
where every prompt has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

FLAT = 1e-6  # a group's rewards differ by less than this share of their size: rounding
LEAST_VARIANCE = 0.01  # of a weighted sum, as a share of what it were without correlations
EPSILON = 1e-8

Reduce = Callable[[torch.Tensor], torch.Tensor]


def alone(total: torch.Tensor) -> torch.Tensor:
    """The sum over the processes where there is one."""
    return total


@dataclass(frozen=True)
class Advantages:
    """Of P groups of G responses.

    Attributes:
        values: size = (P, G); each group's sum is 0.
        without_spread: groups that teach nothing: all of their responses are worth the same; their
            advantages are 0. size = (P,).
    """

    values: torch.Tensor
    without_spread: torch.Tensor


def mean_rewards(rewards: torch.Tensor, *, shared: bool, reduce: Reduce = alone) -> torch.Tensor:
    """J, the mean rewards at each prompt's λ.

    Args:
        rewards: size = (P, G, m).
        shared: whether all prompts, on all processes, have one λ.
        reduce: sums a tensor over the processes.

    Returns:
        size = (P, m).
    """
    groups = rewards.mean(dim=1)  # size = (P, m)
    if not shared:
        return groups
    count = groups.new_full((1,), len(groups))
    total, count = reduce(torch.cat([groups.sum(dim=0), count])).split((groups.size(1), 1))
    return (total / count).expand_as(groups)


def normalize_in_groups(
    values: torch.Tensor, size: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(v - mean) / std of each group, with the population's std; 0 where there is no spread.

    Args:
        values: size = (P, G, ...).
        size: what a group's spread is held against, size = (P, ...); default: its largest value.

    Returns:
        The normalised values, size = (P, G, ...), and which groups have no spread, size =
        (P, ...). A value that is no number shows in its group.
    """
    spread = values.amax(dim=1) - values.amin(dim=1)  # size = (P, ...)
    flat = spread <= FLAT * (values.abs().amax(dim=1) if size is None else size)
    centred = values - values.mean(dim=1, keepdim=True)
    centred = centred / spread.masked_fill(flat, 1.0).unsqueeze(1)  # squares must not underflow
    std = centred.square().mean(dim=1, keepdim=True).sqrt()
    normalized = centred / std.masked_fill(flat.unsqueeze(1), 1.0)
    return normalized.masked_fill(flat.unsqueeze(1), 0.0), flat


def correlations(
    normalized: torch.Tensor, flat: torch.Tensor, reduce: Reduce = alone
) -> torch.Tensor:
    """C_ij, the mean of a_i a_j over the groups in which both objectives have spread.

    Args:
        normalized: each objective's normalised rewards, size = (P, G, m).
        flat: where an objective has no spread, size = (P, m).
        reduce: sums a tensor over the processes.

    Returns:
        size = (m, m), with ones on the diagonal.
    """
    there = (~flat).to(normalized)
    products = torch.einsum("pgi,pgj->ij", normalized, normalized)
    counts = normalized.size(1) * there.T @ there
    products, counts = reduce(torch.stack([products, counts]))
    return products / counts.clamp(min=1)


def sum_then_normalize(rewards: torch.Tensor, weights: torch.Tensor) -> Advantages:
    """GRPO: the weighted sum of a response's rewards, normalised within its group.

    Args:
        rewards: size = (P, G, m).
        weights: size = (P, m).
    """
    weights = weights.unsqueeze(1)  # size = (P, 1, m)
    size = (rewards * weights).abs().sum(dim=-1).amax(dim=1)  # size = (P,)
    return Advantages(*normalize_in_groups((rewards * weights).sum(dim=-1), size))


def normalize_then_sum(
    rewards: torch.Tensor,
    weights: torch.Tensor,
    *,
    equal_steps: bool = False,
    reduce: Reduce = alone,
) -> Advantages:
    """GDPO (arXiv 2601.05242): each reward normalised within its group, then the weighted sum.

    The sums are whitened over the batch of all processes; their mean is 0 as it is. With equal
    steps a group's are first divided by √(wᵀCw), the standard deviation of such a sum, with C the
    objectives' correlations and w without the objectives that have no spread there. Otherwise
    conflicting objectives make the smaller steps the closer λ is to the centre.

    Args:
        rewards: size = (P, G, m).
        weights: size = (P, m).
        equal_steps: divide by √(wᵀCw).
        reduce: sums a tensor over the processes.
    """
    normalized, flat = normalize_in_groups(rewards)
    weights = weights.masked_fill(flat, 0.0)
    without = (weights == 0).all(dim=-1)  # size = (P,)
    summed = (normalized * weights.unsqueeze(1)).sum(dim=-1)  # size = (P, G)
    if equal_steps:
        correlated = weights @ correlations(normalized, flat, reduce)
        variance = (correlated * weights).sum(dim=-1)  # size = (P,)
        least = LEAST_VARIANCE * weights.square().sum(dim=-1)
        std = torch.maximum(variance, least).sqrt().masked_fill(without, 1.0)
        summed = summed / std.unsqueeze(1)
    counted = (~without).sum() * rewards.size(1)
    total, count = reduce(torch.stack([summed.square().sum(), counted.to(summed)]))
    return Advantages(summed * torch.rsqrt(total / count.clamp(min=1) + EPSILON), without)
