"""How far an engine's policy is from the trainer's, and truncated importance sampling."""

from __future__ import annotations

import math

import torch


def of_last(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The last T of each row's numbers, size = (B, T), as ``like`` has them."""
    return numbers[:, numbers.size(1) - like.size(1) :]


def truncated_weights(
    old_log_probs: torch.Tensor, sampling_log_probs: torch.Tensor, cap: float
) -> torch.Tensor:
    """min(π_old / π_engine, cap) of each token, without a gradient.

    Args:
        old_log_probs: the trainer's own, size = (B, T).
        sampling_log_probs: the engine's, size = (B, T).
        cap: most of a weight.
    """
    difference = (old_log_probs - sampling_log_probs).detach()
    return difference.clamp(max=math.log(cap)).exp()


def mismatch(
    old_log_probs: torch.Tensor, sampling_log_probs: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is logged of the difference, for each token of a response; mask: size = (B, T)."""
    difference = (old_log_probs - sampling_log_probs).detach()[mask.bool()]
    return {
        "sampling_logp_difference": difference.abs(),
        "importance_sampling_ratio": difference.exp(),
    }
