"""Log-probabilities of the tokens that count, in passes over rows of similar length."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from safe_rlhf_panacea.base.configs.constants import IGNORE_INDEX
from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.base.functional import position_ids_from_mask
from safe_rlhf_panacea.forward.joined_rows import Joined
from safe_rlhf_panacea.forward.passes import Pass, by_token
from safe_rlhf_panacea.forward.prefix_sharing import shared, takes_positions, through
from safe_rlhf_panacea.forward.vocabulary import chosen_log_probs


def log_probs(
    model: Any,
    ids: torch.Tensor,  # size = (B, L)
    mask: torch.Tensor,  # size = (B, L)
    counted: torch.Tensor,  # size = (B, L - 1)
    groups: torch.Tensor | None = None,  # size = (R, G)
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-probability of every token that counts, size = (B, L - 1), float32 or wider, 0 elsewhere.

    Args:
        model: a causal language model of transformers, or an engine around one.
        ids: prompts and responses, padded on either side.
        mask: 1 on tokens.
        counted: which next tokens count; entry t belongs to token t + 1.
        groups: rows that may begin alike and have one λ, each of the B once (``across``,
            ``side_by_side``). Where the model allows it, their common beginning is read once.
        temperature: by which the logits are divided, positive.
    """
    counted = counted.bool()
    wanted = F.pad(counted, (1, 0))  # size = (B, L): the tokens themselves
    if groups is not None:
        joined = shared(model, ids, mask.bool() | wanted, wanted, groups)
        if joined is not None:
            return (_of_joined(model, joined, temperature) * wanted)[:, 1:]
    with_positions = takes_positions(type(unwrap(model)))
    predicts = F.pad(counted, (0, 1))  # size = (B, L): where the next token counts

    def run(part: Pass) -> torch.Tensor:
        tokens, attended, where = part.of(ids), part.of(mask), part.of(predicts)
        inputs = {"input_ids": tokens, "attention_mask": attended.long()}
        if with_positions:
            inputs["position_ids"] = position_ids_from_mask(attended)
        chosen = tokens[part.of(wanted)]
        found = chosen_log_probs(model, inputs, where, chosen, temperature=temperature)
        return found.new_zeros(where.shape).index_put((where,), found)  # size = (n, l)

    return by_token(model, run, mask, predicts | wanted)[:, :-1]


def _of_joined(model: Any, joined: Joined, temperature: float) -> torch.Tensor:
    """By token of the batch, size = (B, L); without meaning where none counts."""
    module = unwrap(model)

    def run(part: Pass) -> torch.Tensor:
        inputs, where = joined.inputs(module, part), part.of(joined.counted)  # size = (n, l)
        rows, columns = where.nonzero()[:, 0], part.of(joined.predictors)[where]
        predicts = torch.zeros_like(where).index_put((rows, columns), where.new_tensor(True))
        number = predicts.flatten().cumsum(0).view_as(where) - 1  # of each position that predicts
        predictors, tokens = number[rows, columns], inputs["input_ids"][where]
        found = chosen_log_probs(model, inputs, predicts, tokens, predictors, temperature)
        return found.new_zeros(where.shape).index_put((where,), found)  # size = (n, l)

    return through(model, joined, run)


def response_tokens(mask: torch.Tensor, start: int) -> torch.Tensor:
    """Which next tokens are a response's, from number ``start`` on; size = (B, L) to (B, L - 1)."""
    counted = mask[:, 1:].bool().clone()
    counted[:, :start] = False
    return counted


def answer_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Which next tokens have a label; size = (B, L) to (B, L - 1)."""
    return labels[:, 1:].ne(IGNORE_INDEX)


def answer_log_probs(
    model: Any,
    ids: torch.Tensor,  # size = (B, L)
    labels: torch.Tensor,  # size = (B, L), ``IGNORE_INDEX`` off the answer
    mask: torch.Tensor,  # size = (B, L)
) -> tuple[torch.Tensor, torch.Tensor]:
    """log π(y|x) of every supervised text, and how many tokens it sums over; size = (B,) each."""
    counted = answer_tokens(labels)  # size = (B, L - 1)
    return log_probs(model, ids, mask, counted).sum(dim=-1), counted.sum(dim=-1)


def of_each_token(sums: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The mean over its text's tokens, for each token; their mean is that over all tokens.

    Sums over the tokens of each text and their numbers, size = (B,), give size = (tokens.sum(),).
    """
    return (sums / tokens).repeat_interleave(tokens)
