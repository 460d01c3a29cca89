"""Losses, each beside its equation, and the masks, means and advantages that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from safe_rlhf_panacea.forward import across

MOST_LOG_RATIO = 20.0  # of two policies at one token: exp of it stays far below any overflow


def share(total: Tensor, count: Tensor) -> Tensor:
    """A micro-batch's sum by the count of an average one (``base.engine``), or its own.

    Both are of one size, and so is the result: 0 where nothing was counted.
    """
    return total / count.masked_fill(count == 0, 1)


def mean_over_update(values: Tensor, count: Tensor | None = None) -> Tensor:
    """A micro-batch's share in the mean over its update; values of any size.

    ``count`` is how many an average micro-batch of the update has, size = (); by default as many
    as these, for their own mean.
    """
    return values.sum() / values.numel() if count is None else share(values.sum(), count)


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's masked positions, 0 where there is none; (B, L) each to size = (B,)."""
    mask = mask.to(values.dtype)
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean over each row's masked positions, (B, L), then over the rows that have any, size = ().

    Each sequence counts alike, whatever its length. Rows with an empty mask (a prompt that
    fills ``max_length``) do not count; if every row is empty the result is 0, not NaN. ``count``
    is how many rows count in an average micro-batch of the update; by default in this one.
    """
    return share(row_means(values, mask).sum(), mask.any(dim=-1).sum() if count is None else count)


def moments(
    parts: Sequence[tuple[Tensor, Tensor]], reduce: Callable[[Tensor], Tensor] = lambda total: total
) -> tuple[Tensor, Tensor]:
    """Mean and variance over the masked positions of several batches, size = () each.

    ``parts`` are values and mask of each batch, size = (B, T) each; ``reduce`` sums a tensor over
    the processes.
    """

    def total(numbers: list[Tensor]) -> Tensor:
        return reduce(torch.stack([number.sum() for number in numbers]).sum())

    count = total([mask.to(values.dtype) for values, mask in parts]).clamp(min=1)
    mean = total([values * mask for values, mask in parts]) / count
    return mean, total([(values - mean) ** 2 * mask for values, mask in parts]) / count


def whiten(values: Tensor, mask: Tensor, of: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Zero mean and unit variance over all masked positions; 0 elsewhere; size = (B, T) all.

    ``of`` are the mean and the variance that become 0 and 1; by default those of these values.
    """
    mean, variance = of or moments([(values, mask)])
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


# -- pairs ----------------------------------------------------------------------------


class Pairs(NamedTuple):
    """B pairs of responses, all better ones and then all worse ones, as ``log_probs`` takes them.

    Attributes:
        input_ids: padded on the right, size = (2B, L).
        attention_mask: size = (2B, L).
        counted: from the first token in which a pair differs to the end of each, bool,
            size = (2B, L - 1): all before cancels in a margin.
        groups: the rows of each pair, size = (B, 2): what it begins with is read once.
    """

    input_ids: Tensor
    attention_mask: Tensor
    counted: Tensor
    groups: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], *, upstream_slice: bool = False) -> Pairs:
        """The pairs of a collated batch, size = (B, L) each; see ``diverging_mask``."""
        better, worse = batch["better_input_ids"], batch["worse_input_ids"]
        masks = batch["better_attention_mask"], batch["worse_attention_mask"]
        counted = diverging_mask(better, masks[0], worse, masks[1], upstream_slice=upstream_slice)
        ids = torch.cat([better, worse])
        return cls(ids, torch.cat(masks), torch.cat(counted), across(len(ids), 2))


def diverging_mask(
    better_input_ids: Tensor,  # size = (B, L)
    better_attention_mask: Tensor,  # size = (B, L)
    worse_input_ids: Tensor,  # size = (B, L)
    worse_attention_mask: Tensor,  # size = (B, L)
    *,
    upstream_slice: bool = False,
) -> tuple[Tensor, Tensor]:
    """Which next-token log-probabilities of a pair enter the DPO loss.

    Everything before the first differing token cancels in the margin, so the sum runs from
    that token to the end of each answer, padded on the right. Index ``t`` of a shifted
    log-probability belongs to token ``t + 1``. ``upstream_slice`` reproduces Safe-RLHF's slice,
    which forgets the shift: the first differing token is left out and, with padding, one padding
    token is counted. Returns two boolean masks, size = (B, L - 1) each.
    """
    differs = better_input_ids.ne(worse_input_ids) | better_attention_mask.ne(worse_attention_mask)
    after = differs.long().cumsum(dim=-1) > 0  # True from the first difference on
    masks = []
    for attention_mask in (better_attention_mask.bool(), worse_attention_mask.bool()):
        if upstream_slice:
            masks.append(after[:, :-1] & attention_mask[:, :-1])
        else:
            masks.append(after[:, 1:] & attention_mask[:, 1:])
    return masks[0], masks[1]


def summed_log_ratios(
    log_probs: Tensor,  # size = (B, T)
    ref_log_probs: Tensor,  # size = (B, T)
    mask: Tensor,  # size = (B, T)
) -> Tensor:
    """log π(y|x)/π_ref(y|x) of every response, the sum over its tokens, size = (B,).

    Times β it is DPO's implicit reward (Eq. 2); on responses drawn from π its mean estimates the
    KL divergence (Eq. 1).
    """
    return ((log_probs - ref_log_probs) * mask).sum(dim=-1)


def reward_statistics(better: Tensor, worse: Tensor) -> dict[str, Tensor]:
    """What is logged of the implicit rewards of the responses, size = (B,) each."""
    better, worse = better.detach(), worse.detach()
    return {
        "reward": better + worse,
        "better_sample_reward": better,
        "worse_sample_reward": worse,
        "reward_accuracy": (better > worse).float(),
        "reward_margin": better - worse,
    }


def labelled_margins(
    better: Tensor,  # size = (B,)
    worse: Tensor,  # size = (B,)
    labels: Tensor,  # size = (B, m), +1 agrees, -1 disagrees, 0 missing
) -> Tensor:
    """±Δ, two rewards' margin towards the response that objective i prefers (Eq. 14), (B, m)."""
    return labels * (better - worse).unsqueeze(-1)


def preference_loss(margins: Tensor) -> Tensor:
    """-log σ(Δ), Bradley and Terry's, of every margin: Eq. 2 of implicit rewards."""
    return -F.logsigmoid(margins)


# -- rollouts -------------------------------------------------------------------------


def generalized_advantages(
    values: Tensor,  # size = (B, T)
    rewards: Tensor,  # size = (B, T)
    mask: Tensor,  # size = (B, T)
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation without a loop over time.

    A_t = sum_l (gamma * gae_lambda)^l delta_{t+l} is one product with a triangular matrix.
    Returns advantages and returns, size = (B, T) each.
    """
    values, rewards = values * mask, rewards * mask
    next_values = F.pad(values[:, 1:], (0, 1))
    deltas = rewards + gamma * next_values - values  # size = (B, T)
    steps = torch.arange(values.size(1), device=values.device)
    distance = steps.unsqueeze(1) - steps.unsqueeze(0)  # row: source, column: target
    decay = (gamma * gae_lambda) ** distance.clamp(min=0).to(deltas.dtype)
    advantages = deltas @ (decay * (distance >= 0))
    return advantages, advantages + values


def kl_penalised_rewards(
    reward: Tensor,  # size = (B,)
    log_probs: Tensor,  # size = (B, T)
    ref_log_probs: Tensor,  # size = (B, T)
    mask: Tensor,  # size = (B, T)
    kl_coeff: float,
    clip_range: float,
) -> Tensor:
    """r - β log π/π_ref by token (Eq. 1): the penalty at each, the reward at the last.

    The result, size = (B, T), is clipped to ±clip_range.
    """
    last = mask.size(1) - 1 - mask.long().flip(-1).argmax(dim=-1)  # size = (B,)
    rewards = -kl_coeff * (log_probs - ref_log_probs)
    rewards = rewards.scatter_add(-1, last.unsqueeze(-1), reward.to(rewards).unsqueeze(-1))
    return rewards.clamp(-clip_range, clip_range)


def clipped_surrogate(
    log_probs: Tensor,  # size = (B, T)
    old_log_probs: Tensor,  # size = (B, T)
    advantages: Tensor,  # size = (B, T), or (B, 1): one for the response
    clip_range: float,
) -> Tensor:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π/π_old by token, to be maximised.

    Equation 7 of "Proximal Policy Optimization Algorithms" (Schulman et al., 2017). log ρ is cut
    off at 20, so that nothing overflows; a token beyond has no gradient. Size = (B, T).
    """
    ratios = torch.exp((log_probs - old_log_probs).clamp(max=MOST_LOG_RATIO))
    clipped = ratios.clamp(1.0 - clip_range, 1.0 + clip_range)
    return torch.minimum(advantages * ratios, advantages * clipped)


def clipped_value_errors(
    values: Tensor,  # size = (B, T)
    old_values: Tensor,  # size = (B, T)
    returns: Tensor,  # size = (B, T)
    clip_range: float,
) -> Tensor:
    """½ max((V - R)², (V' - R)²), (B, T); V' is V clipped to ±clip_range around the old one."""
    low, high = old_values - clip_range, old_values + clip_range
    clipped = torch.maximum(torch.minimum(values, high), low)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """exp(d) - d - 1, d = log π_ref - log π: never negative, and KL(π‖π_ref) on average.

    Both are of the drawn tokens, of one size. d is cut off at 20, where exp(d) would soon
    overflow: beyond, a token has no gradient.
    """
    difference = (ref_log_probs - log_probs).clamp(max=MOST_LOG_RATIO)
    return torch.expm1(difference) - difference


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
    """GRPO's: minus the surrogate and kl_coeff times the divergence, mean over response tokens.

    ``clip_range`` is ε of the ratio, ``kl_coeff`` 0 where the divergence is in the rewards.
    ``tokens`` are those of an average micro-batch of the update; by default of this one.
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
    total = torch.where(mask, losses, 0.0).sum()
    return share(total, mask.sum() if tokens is None else tokens)


# -- text -----------------------------------------------------------------------------


def next_token_loss(log_probs: Tensor, tokens: Tensor, count: Tensor | None = None) -> Tensor:
    """-log π of the next token, mean over the labelled ones: of SFT, and PTX's term in PPO.

    ``log_probs`` are log π(y|x) of each text, ``tokens`` how many of its tokens are labelled,
    size = (B,) each. ``count`` is the labelled tokens of an average micro-batch of the update; by
    default those of this batch. The loss is 0 where no token is labelled.
    """
    return share(-log_probs.sum(), tokens.sum() if count is None else count)
