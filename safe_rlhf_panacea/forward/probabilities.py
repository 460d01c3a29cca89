"""Log-probabilities of the tokens that count, and hidden states, in passes over a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.forward.passes import Pass, by_token, position_ids_from_mask
from safe_rlhf_panacea.forward.sharing import Joined, shared, takes_positions, through
from safe_rlhf_panacea.forward.vocabulary import chosen_log_probs


def _inputs(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Of a pass over rows that are not joined, size = (n, l) each."""
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if takes_positions(unwrap(model)):
        inputs["position_ids"] = position_ids_from_mask(mask)
    return inputs


def log_probs(
    model: Any,
    ids: Tensor,  # size = (B, L)
    mask: Tensor,  # size = (B, L)
    counted: Tensor,  # size = (B, L - 1)
    groups: Tensor | None = None,  # size = (R, G)
    *,
    temperature: float = 1.0,
) -> Tensor:
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
    joined = shared(model, ids, mask.bool() | wanted, wanted, groups)
    if joined is not None:
        return (_of_joined(model, joined, temperature) * wanted)[:, 1:]
    predicts = F.pad(counted, (0, 1))  # size = (B, L): where the next token counts

    def run(part: Pass) -> Tensor:
        inputs, where = _inputs(model, part.of(ids), part.of(mask)), part.of(predicts)
        tokens = inputs["input_ids"][part.of(wanted)]
        found = chosen_log_probs(model, inputs, where, tokens, temperature=temperature)
        return found.new_zeros(where.shape).index_put((where,), found)  # size = (n, l)

    return by_token(model, run, mask.bool() | predicts | wanted)[:, :-1]


def _of_joined(model: Any, joined: Joined, temperature: float) -> Tensor:
    """By token of the batch, size = (B, L); without meaning where none counts."""

    def run(part: Pass) -> Tensor:
        inputs, where = joined.inputs(unwrap(model), part), part.of(joined.counted)
        rows, columns = where.nonzero()[:, 0], part.of(joined.predictors)[where]
        predicts = torch.zeros_like(where).index_put((rows, columns), where.new_tensor(True))
        number = predicts.flatten().cumsum(0).view_as(where) - 1  # of each position that predicts
        predictors, tokens = number[rows, columns], inputs["input_ids"][where]
        found = chosen_log_probs(model, inputs, predicts, tokens, predictors, temperature)
        return found.new_zeros(where.shape).index_put((where,), found)  # size = (n, l)

    return through(model, joined, run)


def hidden_states(
    backbone: Any,
    ids: Tensor,  # size = (B, L)
    mask: Tensor,  # size = (B, L)
    groups: Tensor | None = None,  # size = (R, G)
) -> Tensor:
    """The last hidden states of a model without a head, size = (B, L, E); 0 on padding.

    Args as those of ``log_probs``.
    """
    there = mask.bool()
    joined = shared(backbone, ids, there, there, groups)

    def run(part: Pass) -> Tensor:
        if joined is not None:
            inputs = joined.inputs(backbone, part)
        else:
            inputs = _inputs(backbone, part.of(ids), part.of(mask))
        return backbone(**inputs, use_cache=False).last_hidden_state

    if joined is None:
        return by_token(backbone, run, there)
    return through(backbone, joined, run) * there.unsqueeze(-1)


# -- which tokens count ---------------------------------------------------------------


def response_tokens(mask: Tensor, start: int) -> Tensor:
    """Which next tokens are a response's, from number ``start`` on; size = (B, L) to (B, L - 1)."""
    counted = mask[:, 1:].bool().clone()
    counted[:, :start] = False
    return counted


def answer_tokens(labels: Tensor) -> Tensor:
    """Which next tokens have a label; size = (B, L) to (B, L - 1)."""
    return labels[:, 1:].ne(IGNORE_INDEX)


def answer_log_probs(
    model: Any, ids: Tensor, labels: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """log π(y|x) of every supervised text, and how many tokens it sums over; size = (B,) each.

    ``labels`` are ``IGNORE_INDEX`` off the answers; size = (B, L), as ids and mask.
    """
    counted = answer_tokens(labels)  # size = (B, L - 1)
    return log_probs(model, ids, mask, counted).sum(dim=-1), counted.sum(dim=-1)


def of_each_token(sums: Tensor, tokens: Tensor) -> Tensor:
    """The mean over its text's tokens, for each token; their mean is that over all tokens.

    Sums over the tokens of each text and their numbers, size = (B,), give size = (tokens.sum(),).
    """
    return (sums / tokens).repeat_interleave(tokens)
