"""Log-probabilities of chosen tokens from a language model's head, without its logits being kept.

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

from safe_rlhf_panacea.distributed import unwrap

BLOCK_ELEMENTS = 2**24  # logits that exist at a time: 64 MiB in float32
PROBED = 4  # rows of logits by which it is found out what a model does with them
# Whether a model gives its head's logits as they are: some scale, cap or mask them.
_is_last: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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


def _beside(logits: Tensor, found: Tensor) -> Tensor:
    """Log-probabilities, size = (N,), in further columns of logits, size = (n, V)."""
    columns = -(-len(found) // max(1, len(logits)))
    rest = len(logits) * columns - len(found)
    return torch.cat([logits, F.pad(found, (0, rest)).view(len(logits), columns)], 1).unsqueeze(0)


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
    fused = is_linear and frozen and before is None and _is_last.get(head, True)
    shown: list[Tensor] = []  # logits that are to come out of the model as they are

    def forward(hidden: Tensor) -> Tensor:
        if not fused:
            # An adapted head may have a λ for each row, and needs them all.
            shown.append(own_forward(taken(hidden)) if is_linear else taken(own_forward(hidden)))
            return shown[-1].unsqueeze(0)  # size = (1, N, V)
        chosen = taken(hidden)  # size = (N, E)
        found = ChosenLogProbs.apply(chosen, head.weight, head.bias, tokens, temperature)
        if head in _is_last:
            return found.view(1, -1, 1)
        with torch.no_grad():
            shown.append(own_forward(chosen[:PROBED]))
        return _beside(shown[-1], found)

    head.forward = forward  # its hooks, ZeRO 3's among them, still run
    try:
        result = model(**inputs, use_cache=False).logits.squeeze(0)
    finally:
        del head.forward
        if before is not None:
            head.forward = before
    if head not in _is_last and len(tokens):
        logits = result[:, : shown[-1].size(1)]
        _is_last[head] = len(shown) == 1 and torch.equal(shown[0].to(result.dtype), logits)
        if fused and not _is_last[head]:  # once in the life of a head
            return chosen_log_probs(model, inputs, where, tokens, predictors, temperature)
    if not fused:
        return gather_log_probabilities(result, tokens, temperature)
    width = shown[-1].size(1) if shown else 0
    return result[:, width:].flatten()[: len(tokens)]


def gather_log_probabilities(
    logits: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities of ``labels`` under ``logits`` divided by a temperature.

    Computed in float32, or wider, by the fused cross entropy, whose backward pass is three times
    as fast as that of logit minus log-sum-exp.

    Args:
        logits: size = (B, L, V).
        labels: size = (B, L).
        temperature: positive.

    Returns:
        size = (B, L), float32 or wider.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if temperature == 1 else logits / temperature
    losses = F.cross_entropy(
        logits.reshape(-1, logits.size(-1)), labels.reshape(-1), reduction="none"
    )
    return -losses.view(labels.shape)
