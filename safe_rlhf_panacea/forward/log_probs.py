"""The names of an earlier interface, until nothing uses them."""

from __future__ import annotations

from typing import Any

import torch

from safe_rlhf_panacea.forward.probabilities import (
    answer_log_probs,
    answer_tokens,
    log_probs,
    of_each_token,
    response_tokens,
)

__all__ = [
    "answer_log_probs",
    "answer_tokens",
    "grouped_log_probs",
    "of_each_token",
    "response_log_probs",
    "response_tokens",
    "token_log_probs",
]


def token_log_probs(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    counted: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """``log_probs`` without groups."""
    return log_probs(model, input_ids, attention_mask, counted, temperature=temperature)


def grouped_log_probs(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    counted: torch.Tensor,
    groups: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """``log_probs``."""
    return log_probs(model, input_ids, attention_mask, counted, groups, temperature=temperature)


def response_log_probs(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    start: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """``log_probs`` of ``response_tokens``."""
    counted = response_tokens(attention_mask, start)
    return log_probs(model, input_ids, attention_mask, counted, temperature=temperature)
