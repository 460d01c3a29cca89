"""Log-probabilities of the tokens that count, and hidden states, in passes over a batch.

A head's logits are the largest tensor of a step: one number per token of the text and of the
vocabulary. They are made here only where a token counts, a block at a time, and with a frozen head
nothing of their size is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from safe_rlhf_panacea.adapter import at_first_row
from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.forward.passes import Pass, by_token, evaluating, position_ids_from_mask
from safe_rlhf_panacea.forward.sharing import Joined, shared, takes_positions, through

BLOCK_ELEMENTS = 2**24  # logits that exist at a time: 64 MiB in float32
# Whether a model gives its head's logits as they are: some scale, cap or mask them.
_is_last: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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


class ChosenLogProbs(torch.autograd.Function):
    """log softmax((h Wᵀ + b) / T) at one token per row, for a W and b that are not trained.

    The gradient with respect to h of a row is W's row of its token less the softmax's mean of W's
    rows, over T, times a number that comes from behind: so it is computed in the forward pass,
    block by block, while the logits are there. Neither they nor the softmax are made twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # size = (N, E)
        weight: Tensor,  # size = (V, E)
        bias: Tensor | None,  # size = (V,)
        tokens: Tensor,  # size = (N,)
        temperature: float,
    ) -> Tensor:
        """size = (N,), float32 or wider."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        log_probs = hidden.new_empty(hidden.size(0), dtype=dtype)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(1, BLOCK_ELEMENTS // weight.size(0))
        for begin in range(0, hidden.size(0), rows):
            block = slice(begin, begin + rows)
            logits = F.linear(hidden[block], weight, bias).to(dtype)  # size = (rows, V)
            if temperature != 1:
                logits.div_(temperature)
            chosen = tokens[block].unsqueeze(-1)
            of_chosen, largest = logits.gather(-1, chosen), logits.amax(dim=-1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()  # in place, and made once for both uses
            totals = exponentials.sum(dim=-1, keepdim=True)
            log_probs[block] = (of_chosen - largest - totals.log()).squeeze(-1)
            if slopes is not None:
                differences = exponentials.div_(totals).neg_()  # the token's own is 1 - p
                differences.scatter_add_(-1, chosen, torch.ones_like(totals))
                slopes[block] = differences.to(weight.dtype) @ weight / temperature
        ctx.save_for_backward(slopes)
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of h; the weight of the vocabulary is frozen."""
        (slopes,) = ctx.saved_tensors
        return (gradient.unsqueeze(-1) * slopes).to(slopes.dtype), None, None, None, None


def _gives_its_heads_logits(model: Any, head: nn.Module, ids: Tensor) -> bool:
    """Whether a model changes nothing of them, seen once on some token ids, size = (n, l)."""
    if head not in _is_last:
        made: list[Tensor] = []
        seen = head.register_forward_hook(lambda _, __, logits: made.append(logits))
        with seen, torch.no_grad(), at_first_row(unwrap(model)), evaluating(unwrap(model)):
            given = model(input_ids=ids[:1, :2], use_cache=False).logits
        _is_last[head] = len(made) == 1 and torch.equal(made[0].to(given.dtype), given)
    return _is_last[head]


def chosen_log_probs(
    model: Any,
    inputs: dict[str, Tensor],  # of the forward pass; sequences are size = (n, l)
    where: Tensor,  # size = (n, l), bool: the positions that predict a token which counts
    tokens: Tensor,  # size = (N,): those tokens
    predictors: Tensor | None = None,  # size = (N,), int64
    temperature: float = 1.0,
) -> Tensor:
    """Log-probabilities of chosen next tokens in one forward pass, size = (N,), float32 or wider.

    ``tokens`` are in the order of ``where`` unless ``predictors`` says which of the positions
    predicts each of them: one may predict several. Logits are divided by the temperature.
    """

    def taken(values: Tensor) -> Tensor:
        """Those that predict, size = (n, l, ...) to (N, ...)."""
        found = values[where]
        # A gradient that is indexed twice would be summed in any order, and never twice the same.
        return found if predictors is None else F.embedding(predictors, found)

    head = unwrap(model).get_output_embeddings()
    if head is None:
        logits = taken(model(**inputs, use_cache=False).logits)
        return gather_log_probabilities(logits, tokens, temperature)
    before = vars(head).get("forward")  # of the module itself, and not of its class
    own_forward, is_linear = head.forward, type(head) is nn.Linear
    frozen = not any(p.requires_grad for p in head.parameters())
    fused = is_linear and frozen and before is None
    fused = fused and _gives_its_heads_logits(model, head, inputs["input_ids"])

    def forward(hidden: Tensor) -> Tensor:
        """Log-probabilities, size = (1, N, 1), or logits, size = (1, N, V)."""
        if fused:
            chosen = (taken(hidden), head.weight, head.bias, tokens, temperature)
            return ChosenLogProbs.apply(*chosen).view(1, -1, 1)
        # An adapted head may have a λ for each row, and needs them all.
        return (own_forward(taken(hidden)) if is_linear else taken(own_forward(hidden)))[None]

    head.forward = forward  # its hooks, ZeRO 3's among them, still run
    try:
        result = model(**inputs, use_cache=False).logits.squeeze(0)
    finally:
        del head.forward
        if before is not None:
            head.forward = before
    return result.squeeze(-1) if fused else gather_log_probabilities(result, tokens, temperature)


def gather_log_probabilities(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of ``labels``, size = (B, L), under ``logits``, size = (B, L, V), over T.

    Computed in float32, or wider, by the fused cross entropy, whose backward pass is three times
    as fast as that of logit minus log-sum-exp.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if temperature == 1 else logits / temperature
    losses = F.cross_entropy(
        logits.reshape(-1, logits.size(-1)), labels.reshape(-1), reduction="none"
    )
    return -losses.view(labels.shape)


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
