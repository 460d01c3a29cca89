"""GRPO's loss: a clipped surrogate and the divergence from the reference, by token."""

from __future__ import annotations

import torch


def clipped_surrogate(
    log_ratios: torch.Tensor, advantages: torch.Tensor, clip_range: float
) -> torch.Tensor:
    """-min(ρ A, clip(ρ, 1 - ε, 1 + ε) A), ρ = π / π_old.

    Args:
        log_ratios: log ρ of every token, size = (B, T).
        advantages: A of every response, size = (B,).
        clip_range: ε.

    Returns:
        size = (B, T).
    """
    ratios, advantages = log_ratios.exp(), advantages.unsqueeze(-1)
    clipped = ratios.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -torch.minimum(ratios * advantages, clipped * advantages)


def kl_estimate(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1, d = log π_ref - log π: never negative, and KL(π‖π_ref) on average.

    Args:
        log_probs: of the drawn tokens, any size.
        ref_log_probs: the same size.
    """
    difference = ref_log_probs - log_probs
    return torch.expm1(difference) - difference


def token_mean(
    values: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over a micro-batch's tokens, divided by how many a micro-batch of its update has.

    On average, that is, over micro-batches and processes: so the mean over these, which is what
    accumulation and data-parallel training take, is the mean over all tokens.

    Args:
        values: size = (B, T).
        mask: True on tokens of responses, size = (B, T).
        tokens: of an average micro-batch; default: of this one.
    """
    tokens = mask.sum() if tokens is None else tokens
    return torch.where(mask, values, 0.0).sum() / tokens.clamp(min=1)


def grpo_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_range: float,
    kl_coeff: float = 0.0,
    tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over response tokens of the surrogate and kl_coeff times the divergence.

    Args:
        log_probs: of the policy as it is, size = (B, T).
        old_log_probs: of the policy that drew the responses, size = (B, T).
        ref_log_probs: size = (B, T).
        advantages: size = (B,).
        mask: True on tokens of responses, size = (B, T).
        clip_range: ε of the ratio.
        kl_coeff: 0 where the divergence is in the rewards.
        tokens: see ``token_mean``.
    """
    # What stands beside the tokens of a response must not overflow either.
    log_ratios = (log_probs - old_log_probs).masked_fill(~mask, 0.0)
    losses = clipped_surrogate(log_ratios, advantages, clip_range)
    if kl_coeff > 0:
        differences = (log_probs - ref_log_probs).masked_fill(~mask, 0.0)
        losses = losses + kl_coeff * kl_estimate(differences, torch.zeros_like(differences))
    return token_mean(losses, mask, tokens)


def less_divergence(
    rewards: torch.Tensor,
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    mask: torch.Tensor,
    kl_coeff: float,
) -> torch.Tensor:
    """r_i - kl_coeff Σ_t (log π - log π_ref), for every objective i: Eq. 1's J_i, for each alone.

    Args:
        rewards: size = (B, m).
        log_probs: of the policy that drew the responses, size = (B, T).
        ref_log_probs: size = (B, T).
        mask: True on tokens of responses, size = (B, T).
        kl_coeff: β.

    Returns:
        size = (B, m).
    """
    divergence = torch.where(mask, log_probs - ref_log_probs, 0.0).sum(dim=-1, keepdim=True)
    return rewards - kl_coeff * divergence
