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
from torch import Tensor

FLAT = 1e-6  # a group's rewards differ by less than this share of their size: rounding
LEAST_VARIANCE = 0.01  # of a weighted sum, as a share of what it were without correlations
EPSILON = 1e-8

Reduce = Callable[[Tensor], Tensor]  # sums a tensor over the processes


def alone(total: Tensor) -> Tensor:
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

    values: Tensor
    without_spread: Tensor


def mean_rewards(rewards: Tensor, *, shared: bool, reduce: Reduce = alone) -> Tensor:
    """J, the mean rewards (P, G, m) at each prompt's λ, size = (P, m).

    A reward is NaN where its objective does not count for a response, and a mean where it counts
    for none. ``shared``: all prompts, on all processes, have one λ.
    """
    counted = ~rewards.isnan()
    totals = torch.where(counted, rewards, 0.0).sum(dim=1)  # size = (P, m)
    counts = counted.sum(dim=1).to(totals)
    if not shared:
        return totals / counts
    total, count = reduce(torch.stack([totals.sum(dim=0), counts.sum(dim=0)]))
    return (total / count).expand_as(totals)


def normalize_in_groups(values: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(v - mean) / std of each group, with the population's std; 0 where there is no spread.

    ``values``, size = (P, G, ...), are NaN where they do not count. A group's spread is held
    against ``size``, (P, ...), by default its largest value. Returns the normalised values, 0
    where one does not count, and which groups have no spread, size = (P, ...). An infinite value
    shows in its group.
    """
    missing = values.isnan()
    least, most = values.masked_fill(missing, torch.inf), values.masked_fill(missing, -torch.inf)
    spread = most.amax(dim=1) - least.amin(dim=1)  # size = (P, ...), -inf without values
    if size is None:
        size = values.abs().masked_fill(missing, 0.0).amax(dim=1)
    flat = (spread <= FLAT * size) & ~spread.isposinf()
    centred = values - _mean(values).unsqueeze(1)
    centred = centred / spread.masked_fill(flat, 1.0).unsqueeze(1)  # squares must not underflow
    std = _mean(centred.square()).sqrt().unsqueeze(1)
    normalized = centred / std.masked_fill(flat.unsqueeze(1), 1.0)
    return normalized.masked_fill(flat.unsqueeze(1) | missing, 0.0), flat


def _mean(values: Tensor) -> Tensor:
    """Of those of each group that are there, size = (P, ...); of size (P, G, ...)."""
    there = ~values.isnan()
    return torch.where(there, values, 0.0).sum(dim=1) / there.sum(dim=1)


def correlations(normalized: Tensor, there: Tensor, reduce: Reduce = alone) -> Tensor:
    """C_ij, the mean of a_i a_j over the responses for which both objectives are there, (m, m).

    ``normalized`` rewards, size = (P, G, m), are 0 where an objective is not ``there``: where it
    does not count, or has no spread in its group. The diagonal is 1.
    """
    pairs = (torch.einsum("pgi,pgj->ij", a, a) for a in (normalized, there.to(normalized)))
    products, counts = reduce(torch.stack(list(pairs)))
    return products / counts.clamp(min=1)


def sum_then_normalize(rewards: Tensor, weights: Tensor) -> Advantages:
    """GRPO: the weighted sum of a response's rewards, normalised within its group.

    ``rewards``, size = (P, G, m), are NaN where an objective does not count for a response;
    ``weights`` are of size (P, m). Responses for which no objective counts are not compared with
    the others; their advantage is 0.
    """
    missing = rewards.isnan()
    weighted = (rewards * weights.unsqueeze(1)).masked_fill(missing, 0.0)
    size = weighted.abs().sum(dim=-1).amax(dim=1)  # size = (P,)
    summed = weighted.sum(dim=-1).masked_fill(missing.all(dim=-1), torch.nan)  # size = (P, G)
    return Advantages(*normalize_in_groups(summed, size))


def normalize_then_sum(
    rewards: Tensor, weights: Tensor, *, equal_steps: bool = False, reduce: Reduce = alone
) -> Advantages:
    """GDPO (arXiv 2601.05242): each reward normalised within its group, then the weighted sum.

    The sums are whitened over the batch of all processes; their mean is 0 as it is. With equal
    steps a group's are first divided by √(wᵀCw), the standard deviation of such a sum, with C the
    objectives' correlations and w without the objectives that have no spread there. Otherwise
    conflicting objectives make the smaller steps the closer λ is to the centre.

    An objective is normalised over the responses of a group for which it counts, and gives no
    others an advantage. The weights of those that count are not made to sum to one, as in
    ``aggregation.aggregate_rewards``. The sizes are those of ``sum_then_normalize``.
    """
    normalized, flat = normalize_in_groups(rewards)
    there = ~(rewards.isnan() | flat.unsqueeze(1))
    weights = weights.masked_fill(flat, 0.0)
    without = (weights == 0).all(dim=-1)  # size = (P,)
    summed = (normalized * weights.unsqueeze(1)).sum(dim=-1)  # size = (P, G)
    if equal_steps:
        correlated = weights @ correlations(normalized, there, reduce)
        variance = (correlated * weights).sum(dim=-1)  # size = (P,)
        least = LEAST_VARIANCE * weights.square().sum(dim=-1)
        std = torch.maximum(variance, least).sqrt().masked_fill(without, 1.0)
        summed = summed / std.unsqueeze(1)
    counted = (there & weights.ne(0).unsqueeze(1)).any(dim=-1).sum()
    total, count = reduce(torch.stack([summed.square().sum(), counted.to(summed)]))
    return Advantages(summed * torch.rsqrt(total / count.clamp(min=1) + EPSILON), without)
