"""Log-probabilities of responses, computing logits only where they are needed."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from safe_rlhf_panacea.base.configs.constants import IGNORE_INDEX
from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.base.functional import (
    first_counted,
    gather_log_probabilities,
    position_ids_from_mask,
)


@lru_cache(maxsize=64)
def _forward_parameters(model_type: type) -> frozenset[str]:
    return frozenset(inspect.signature(model_type.forward).parameters)


def response_log_probs(
    model: Any,
    input_ids: torch.Tensor,  # size = (B, L)
    attention_mask: torch.Tensor,  # size = (B, L)
    start: int,
) -> torch.Tensor:
    """Log-probability of every token from the first response on.

    Args:
        model: a causal language model of transformers, or an engine around one.
        input_ids: prompts and responses, padded on either side.
        attention_mask: 1 on tokens.
        start: index, among the next-token predictions, of the first one that is wanted.

    Returns:
        size = (B, L - 1), float32, 0 before ``start``.
    """
    accepted = _forward_parameters(type(unwrap(model)))
    extra: dict[str, Any] = {}
    if "position_ids" in accepted:
        extra["position_ids"] = position_ids_from_mask(attention_mask)
    if "logits_to_keep" in accepted:  # the last ones, and the one that predicts the first of them
        extra["logits_to_keep"] = input_ids.size(1) - start
    logits = model(
        input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False, **extra
    ).logits
    kept = input_ids.size(1) - 1 - start  # response tokens
    log_probs = gather_log_probabilities(logits[:, -kept - 1 : -1], input_ids[:, start + 1 :])
    return F.pad(log_probs, (start, 0))


def answer_log_probs(
    model: Any,
    input_ids: torch.Tensor,  # size = (B, L)
    labels: torch.Tensor,  # size = (B, L), ``IGNORE_INDEX`` off the answer
    attention_mask: torch.Tensor,  # size = (B, L)
) -> tuple[torch.Tensor, torch.Tensor]:
    """log π(y|x) of every supervised text, the sum over its answer's tokens, and their number.

    Returns:
        size = (B,) each.
    """
    counted = labels[:, 1:].ne(IGNORE_INDEX)  # size = (B, L - 1)
    log_probs = response_log_probs(model, input_ids, attention_mask, first_counted(counted))
    return (log_probs * counted).sum(dim=-1), counted.sum(dim=-1)
