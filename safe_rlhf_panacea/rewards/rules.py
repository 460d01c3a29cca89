"""Rewards that are rules, for ``--reward_models name=safe_rlhf_panacea.reward_functions:...``."""

from __future__ import annotations

import torch

from safe_rlhf_panacea.errors import UserError


def concise(
    response_lengths: torch.Tensor, max_length: float, max_reward: float = 1.0
) -> torch.Tensor:
    """Full reward up to a length, falling linearly beyond it.

    r_max if length ≤ c, else r_max + 1 - length / c: the conciseness objective of the paper's
    later version (NeurIPS 2024), continuous at c.

    Args:
        response_lengths: in tokens, size = (B,).
        max_length: c.
        max_reward: r_max.

    Returns:
        size = (B,), float32.

    Raises:
        UserError: c is not positive.
    """
    if not max_length > 0:
        raise UserError(f"concise: max_length {max_length:g} must be positive")
    lengths = response_lengths.float()
    return max_reward + (1 - lengths / max_length).clamp(max=0)
