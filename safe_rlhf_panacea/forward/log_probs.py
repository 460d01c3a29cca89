"""Log-probabilities of tokens that count, in passes over rows of similar length."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.base.losses import position_ids_from_mask
from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.forward.passes import Pass, by_token
from safe_rlhf_panacea.forward.vocabulary import chosen_log_probs


def takes_positions(model_type: type[nn.Module]) -> bool:
    """Whether a model can be told where in its sequence each token stands."""
    return "position_ids" in inspect.signature(model_type.forward).parameters


def token_log_probs(
    model: Any,
    input_ids: torch.Tensor,  # size = (B, L)
    attention_mask: torch.Tensor,  # size = (B, L)
    counted: torch.Tensor,  # size = (B, L - 1)
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-probability of every token that counts.

    Args:
        model: a causal language model of transformers, or an engine around one.
        input_ids: prompts and responses, padded on either side.
        attention_mask: 1 on tokens.
        counted: which next tokens count; entry t belongs to token t + 1.
        temperature: by which the logits are divided, positive.

    Returns:
        size = (B, L - 1), float32, 0 where a token does not count.
    """
    with_positions = takes_positions(type(unwrap(model)))
    predicts = F.pad(counted.bool(), (0, 1))  # size = (B, L): where the next token counts
    predicted = F.pad(counted.bool(), (1, 0))  # size = (B, L): the tokens themselves

    def run(part: Pass) -> torch.Tensor:
        ids, mask, where = part.of(input_ids), part.of(attention_mask), part.of(predicts)
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if with_positions:
            inputs["position_ids"] = position_ids_from_mask(mask)
        tokens = ids[part.of(predicted)]
        found = chosen_log_probs(model, inputs, where, tokens, temperature=temperature)
        return found.new_zeros(where.shape).index_put((where,), found)  # size = (n, l)

    return by_token(model, run, attention_mask, predicts | predicted)[:, :-1]


def response_tokens(attention_mask: torch.Tensor, start: int) -> torch.Tensor:
    """Which next-token predictions are of a response, from number ``start`` on; (B, L - 1)."""
    counted = attention_mask[:, 1:].bool().clone()
    counted[:, :start] = False
    return counted


def response_log_probs(
    model: Any,
    input_ids: torch.Tensor,  # size = (B, L)
    attention_mask: torch.Tensor,  # size = (B, L)
    start: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-probability of every token of the responses.

    Args:
        model: a causal language model of transformers, or an engine around one.
        input_ids: prompts and responses, padded on either side.
        attention_mask: 1 on tokens.
        start: index, among the next-token predictions, of the first one that is wanted.
        temperature: by which the logits are divided, positive.

    Returns:
        size = (B, L - 1), float32, 0 before ``start`` and on padding.
    """
    counted = response_tokens(attention_mask, start)
    return token_log_probs(model, input_ids, attention_mask, counted, temperature)


def of_each_token(sums: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The mean over its text's tokens, for each token: their mean is that over all tokens.

    Args:
        sums: over the tokens of each text, size = (B,).
        tokens: of each text, size = (B,).

    Returns:
        size = (tokens.sum(),).
    """
    return (sums / tokens).repeat_interleave(tokens)


def answer_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Which next-token predictions are of an answer; size = (B, L) to (B, L - 1)."""
    return labels[:, 1:].ne(IGNORE_INDEX)


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
    counted = answer_tokens(labels)  # size = (B, L - 1)
    log_probs = token_log_probs(model, input_ids, attention_mask, counted)
    return log_probs.sum(dim=-1), counted.sum(dim=-1)
