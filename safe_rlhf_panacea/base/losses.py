"""The losses, each beside its equation: pure functions, which the trainers' hooks call."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from safe_rlhf_panacea.base.functional import share

MOST_LOG_RATIO = 20.0  # of two policies at one token: exp of it stays far below any overflow

# -- pairs ----------------------------------------------------------------------------


def summed_log_ratios(
    log_probs: torch.Tensor,  # size = (B, T)
    ref_log_probs: torch.Tensor,  # size = (B, T)
    mask: torch.Tensor,  # size = (B, T)
) -> torch.Tensor:
    """log π(y|x)/π_ref(y|x) of every response, the sum over its tokens, size = (B,).

    Times β it is DPO's implicit reward (Eq. 2); on responses drawn from π its mean estimates the
    KL divergence (Eq. 1).
    """
    return ((log_probs - ref_log_probs) * mask).sum(dim=-1)


def labelled_margins(
    better: torch.Tensor,  # size = (B,)
    worse: torch.Tensor,  # size = (B,)
    labels: torch.Tensor,  # size = (B, m), +1 agrees, -1 disagrees, 0 missing
) -> torch.Tensor:
    """±Δ, the margin between two rewards towards the response that objective i prefers (Eq. 14).

    Returns:
        size = (B, m).
    """
    return labels * (better - worse).unsqueeze(-1)


def preference_loss(margins: torch.Tensor) -> torch.Tensor:
    """-log σ(Δ), Bradley and Terry's, of every margin: Eq. 2 of implicit rewards."""
    return -F.logsigmoid(margins)


# -- rollouts -------------------------------------------------------------------------


def kl_penalised_rewards(
    reward: torch.Tensor,  # size = (B,)
    log_probs: torch.Tensor,  # size = (B, T)
    ref_log_probs: torch.Tensor,  # size = (B, T)
    mask: torch.Tensor,  # size = (B, T)
    kl_coeff: float,
    clip_range: float,
) -> torch.Tensor:
    """r - β log π/π_ref by token (Eq. 1): the penalty at each, the reward at the last.

    Returns:
        size = (B, T), clipped to ±clip_range.
    """
    last = mask.size(1) - 1 - mask.long().flip(-1).argmax(dim=-1)  # size = (B,)
    rewards = -kl_coeff * (log_probs - ref_log_probs)
    rewards = rewards.scatter_add(-1, last.unsqueeze(-1), reward.to(rewards).unsqueeze(-1))
    return rewards.clamp(-clip_range, clip_range)


def clipped_surrogate(
    log_probs: torch.Tensor,  # size = (B, T)
    old_log_probs: torch.Tensor,  # size = (B, T)
    advantages: torch.Tensor,  # size = (B, T), or (B, 1): one for the response
    clip_range: float,
) -> torch.Tensor:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π/π_old by token, to be maximised.

    Equation 7 of "Proximal Policy Optimization Algorithms" (Schulman et al., 2017). log ρ is cut
    off at 20, so that nothing overflows; a token beyond has no gradient.

    Returns:
        size = (B, T).
    """
    ratios = torch.exp((log_probs - old_log_probs).clamp(max=MOST_LOG_RATIO))
    clipped = ratios.clamp(1.0 - clip_range, 1.0 + clip_range)
    return torch.minimum(advantages * ratios, advantages * clipped)


def clipped_value_errors(
    values: torch.Tensor,  # size = (B, T)
    old_values: torch.Tensor,  # size = (B, T)
    returns: torch.Tensor,  # size = (B, T)
    clip_range: float,
) -> torch.Tensor:
    """½ max((V - R)², (V' - R)²) by token, V' being V clipped to ±clip_range around the old one.

    Returns:
        size = (B, T).
    """
    low, high = old_values - clip_range, old_values + clip_range
    clipped = torch.maximum(torch.minimum(values, high), low)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


# -- text -----------------------------------------------------------------------------


def next_token_loss(
    log_probs: torch.Tensor,  # size = (B,)
    tokens: torch.Tensor,  # size = (B,)
    count: torch.Tensor | None = None,  # size = ()
) -> torch.Tensor:
    """-log π of the next token, mean over the labelled ones: of SFT, and PTX's term in PPO.

    Args:
        log_probs: log π(y|x) of each text.
        tokens: how many tokens of it are labelled.
        count: labelled tokens of an average micro-batch of the update; default: of this batch.

    Returns:
        size = (), 0 where no token is labelled.
    """
    return share(-log_probs.sum(), tokens.sum() if count is None else count)
