"""GRPO's loss: PPO's clipped surrogate, and the divergence from the reference, by token."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_rlhf_panacea.base.losses import (
    MOST_LOG_RATIO,
    clipped_surrogate,
    share,
    summed_log_ratios,
)


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """exp(d) - d - 1, d = log π_ref - log π: never negative, and KL(π‖π_ref) on average.

    Both are of the drawn tokens, of one size. d is cut off at 20, where exp(d) would soon
    overflow: beyond, a token has no gradient.
    """
    difference = (ref_log_probs - log_probs).clamp(max=MOST_LOG_RATIO)
    return torch.expm1(difference) - difference


def token_mean(
    values: Tensor,  # size = (B, T)
    mask: Tensor,  # True on tokens of responses, size = (B, T)
    tokens: Tensor | None = None,  # of an average micro-batch; default: of this one
) -> Tensor:
    """A micro-batch's share in the mean over all tokens of its update (``base.engine``)."""
    return share(torch.where(mask, values, 0.0).sum(), mask.sum() if tokens is None else tokens)


def grpo_loss(
    log_probs: Tensor,  # of the policy as it is, size = (B, T)
    old_log_probs: Tensor,  # of the policy that drew the responses, size = (B, T)
    ref_log_probs: Tensor,  # size = (B, T)
    advantages: Tensor,  # size = (B,)
    mask: Tensor,  # True on tokens of responses, size = (B, T)
    *,
    clip_range: float,
    kl_coeff: float = 0.0,
    tokens: Tensor | None = None,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Mean over response tokens of the surrogate and kl_coeff times the divergence.

    ``clip_range`` is ε of the ratio, ``kl_coeff`` 0 where the divergence is in the rewards.
    ``token_weights`` of the surrogate, size = (B, T), are not negative; by default 1.
    """
    # What stands beside the tokens of a response must not overflow either.
    new, old, reference = (
        numbers.masked_fill(~mask, 0.0) for numbers in (log_probs, old_log_probs, ref_log_probs)
    )
    advantages = advantages.unsqueeze(-1)
    if token_weights is not None:
        advantages = advantages * token_weights
    losses = -clipped_surrogate(new, old, advantages, clip_range)
    if kl_coeff > 0:
        losses = losses + kl_coeff * kl_estimate(new, reference)
    return token_mean(losses, mask, tokens)


def less_divergence(
    rewards: Tensor,  # size = (B, m)
    log_probs: Tensor,  # of the policy that drew the responses, size = (B, T)
    ref_log_probs: Tensor,  # size = (B, T)
    mask: Tensor,  # True on tokens of responses, size = (B, T)
    kl_coeff: float,
) -> Tensor:
    """r_i - kl_coeff Σ_t (log π - log π_ref) for every objective i, Eq. 1's J_i: (B, m)."""
    divergence = summed_log_ratios(log_probs, ref_log_probs, mask)  # size = (B,)
    return rewards - kl_coeff * divergence.unsqueeze(-1)
