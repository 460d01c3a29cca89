"""Groups of responses, compared over the micro-batches that share an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch

from safe_rlhf_panacea.algorithms.grpo.advantages import (
    Advantages,
    mean_rewards,
    normalize_then_sum,
    sum_then_normalize,
)
from safe_rlhf_panacea.algorithms.grpo.losses import less_divergence
from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.algorithms.rewarded import PanaceaRollout
from safe_rlhf_panacea.base.updates import average
from safe_rlhf_panacea.configs.algorithms import GRPOConfig
from safe_rlhf_panacea.distributed import all_reduce_sum


class Compared(TypedDict, total=False):
    """What ``compare`` says of each response."""

    advantages: torch.Tensor
    weights: torch.Tensor
    without_spread: torch.Tensor
    tokens: torch.Tensor


class GroupRollout(PanaceaRollout, Compared):
    """A micro-batch of whole groups, one after the other; compared before its update.

    Attributes:
        advantages: size = (B,).
        weights: how much each objective counts, size = (B, m).
        without_spread: whether a row's group teaches nothing, size = (B,).
        tokens: of responses, in an average micro-batch of the update; size = ().
    """


def response_mask(rollout: PanaceaRollout) -> torch.Tensor:
    """Which predictions are of a response's tokens, size = (B, T), T = L - S."""
    return rollout["attention_mask"][:, rollout["prompt"].size(-1) :].bool()


def of_response(rollout: PanaceaRollout, numbers: torch.Tensor) -> torch.Tensor:
    """The last T of L - 1 numbers of each row, size = (B, T)."""
    return numbers[:, rollout["prompt"].size(-1) - 1 :]


@torch.no_grad()
def compare(
    rollouts: Sequence[GroupRollout], panacea: Panacea, args: GRPOConfig
) -> list[GroupRollout]:
    """Advantages, over all groups of all processes.

    Args:
        rollouts: the micro-batches of an update; of one λ, if that is shared.
        panacea: which aggregates.
        args: the run's flags.
    """
    size, counts = args.num_return_sequences, [len(r["rewards"]) for r in rollouts]
    rewards = torch.cat([r["rewards"] for r in rollouts]).unflatten(0, (-1, size))
    preference = torch.cat([r["preference"] for r in rollouts])[::size]  # size = (P, m)
    means = mean_rewards(rewards, shared=panacea.source.shared, reduce=all_reduce_sum)
    weights = panacea.weights(means, preference)
    if args.kl_in == "reward":
        less = torch.cat([_less_divergence(r, args.kl_coeff) for r in rollouts])
        rewards = less.unflatten(0, (-1, size))
    found = _advantages(rewards, weights, args)
    columns = zip(
        found.values.flatten().split(counts),
        weights.repeat_interleave(size, dim=0).split(counts),
        found.without_spread.repeat_interleave(size).split(counts),
        strict=True,
    )
    tokens = average([response_mask(r).sum() for r in rollouts])
    return [
        {**r, "advantages": a, "weights": w, "without_spread": flat, "tokens": tokens}
        for r, (a, w, flat) in zip(rollouts, columns, strict=True)
    ]


def _less_divergence(rollout: PanaceaRollout, kl_coeff: float) -> torch.Tensor:
    old, ref = (of_response(rollout, rollout[key]) for key in ("log_probs", "ref_log_probs"))
    return less_divergence(rollout["rewards"], old, ref, response_mask(rollout), kl_coeff)


def _advantages(rewards: torch.Tensor, weights: torch.Tensor, args: GRPOConfig) -> Advantages:
    if args.advantage == "sum_then_normalize":
        return sum_then_normalize(rewards, weights)
    return normalize_then_sum(rewards, weights, equal_steps=args.equal_steps, reduce=all_reduce_sum)
