"""What sequences begin with goes through a model once, where the model allows it.

The two responses of a pair, or those of a group, are one row then (``joined_rows``). A quarter of
the tokens of hh-rlhf's pairs is saved, and of a group's prompt all copies but one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from safe_rlhf_panacea.adapter import taking_rows
from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.forward.dropout import evaluating
from safe_rlhf_panacea.forward.joined_rows import COMMON, Joined, join, mask_of
from safe_rlhf_panacea.forward.passes import Pass, by_token, limit, repeats_passes_by_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUNDING = 1e-2  # at most, of what a token changes where it is seen; of bfloat16
# Names of what limits how far a layer sees, in transformers' configurations.
_WINDOWS = (
    *("sliding_window", "attention_window", "window_size", "attention_chunk_size"),
    *("attention_types", "attention_layers"),
)


# Whether a model keeps tokens apart that a mask keeps apart: not all that take one do.
_obeys: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
# What a model may raise that does not know such masks.
_MISFITS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError)


def takes_positions(model_type: type[nn.Module]) -> bool:
    """Whether a model can be told where in its sequence each token stands."""
    return "position_ids" in inspect.signature(model_type.forward).parameters


@torch.no_grad()
def _found_to_obey(model: Any, batch: int) -> bool:
    """Whether another first rest changes nothing of the second, but for rounding."""
    module = unwrap(model)
    rows = torch.zeros(2, dtype=torch.long, device=next(module.parameters()).device)
    ids = torch.tensor([[0, 1, 2], [0, 2, 2]], device=rows.device)
    positions = torch.tensor([[0, 1, 1]] * 2, device=rows.device)
    changes = []
    with taking_rows(module, rows, batch), evaluating(module):
        for kinds in ([COMMON, 1, 2], [COMMON, COMMON, COMMON]):
            mask = mask_of(module, torch.tensor([kinds] * 2, device=rows.device))
            inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
            try:
                last = model(**inputs, use_cache=False)[0][:, 2]  # logits or hidden states, (2, V)
            except torch.OutOfMemoryError:
                raise
            except _MISFITS:
                return False
            changes.append((last[0] - last[1]).abs().max().item())
    return changes[0] <= ROUNDING * changes[1]


def _sees_all(module: PreTrainedModel) -> bool:
    """Whether no layer has a window, or a mask of its own over columns.

    A ready mask replaces a window that transformers makes, and columns of a joined row are no
    positions: GPT-Neo masks by them, in a buffer.
    """
    config = module.config.get_text_config()
    windows = any(getattr(config, name, None) for name in _WINDOWS)
    windows |= bool(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    own = (b for b in module.buffers() if b.dtype in (torch.bool, torch.uint8) and b.dim() > 1)
    return not windows and not any(b.size(-1) == b.size(-2) > 1 for b in own)


def can_share(model: Any, batch: int) -> bool:
    """Whether a model, or an engine around one, gives each sequence of a joined row its own.

    Args:
        model: a causal model of transformers, with its head or without.
        batch: rows of the batch at whose λ it stands.

    Raises:
        AdapterError: it stands at another number of λ.
    """
    module = unwrap(model)
    known = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if known not in ("sdpa", "eager") or not takes_positions(type(module)):
        return False
    if repeats_passes_by_row(module):
        return False
    if module not in _obeys:
        _obeys[module] = _sees_all(module) and _found_to_obey(model, batch)
    return _obeys[module]


def _cost(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Of rows of tokens, in tokens that attend to nothing.

    A layer's products take about 24 E² operations per token, and attention 4 E for each token that
    it sees.
    """
    return (lengths * (1 + lengths / (6 * width))).sum()


def shared(
    model: Any,
    input_ids: torch.Tensor,  # size = (N, L)
    needed: torch.Tensor,  # size = (N, L), bool
    counted: torch.Tensor,  # size = (N, L), bool
    groups: torch.Tensor,  # size = (R, G)
) -> Joined | None:
    """Sequences of which each group has one λ, joined as costs least; None: where none is.

    Whole groups, or parts of them where rows would grow too long for attention, or for a pass.

    Args:
        model: a causal model of transformers, or an engine around one.
        input_ids: prompts and responses.
        needed: which tokens there are.
        counted: of which of them something is wanted.
        groups: which rows belong together, each of the N once.
    """
    size, groups = groups.size(1), groups.to(input_ids.device)
    if size == 1 or not can_share(model, len(input_ids)):
        return None
    begins = (needed[:, 1:] & ~needed[:, :-1]).sum(dim=1) + needed[:, 0]  # size = (N,)
    if not begins.eq(1).all():
        return None  # a row with gaps, or with no token
    width = unwrap(model).config.get_text_config().hidden_size
    lengths = needed.sum(dim=1)  # size = (N,)
    longest = max(limit.on(input_ids.device), int(lengths.max()))
    best, least = None, _cost(lengths, width)
    for part in (size // parts for parts in range(1, size) if size % parts == 0):
        joined = join(input_ids, needed, counted, groups.reshape(-1, part))
        cost = _cost(joined.present.sum(dim=1), width)
        if cost < least and joined.ids.size(1) <= longest:
            best, least = joined, cost
    return best


def through(model: Any, joined: Joined, run: Callable[[Pass], torch.Tensor]) -> torch.Tensor:
    """What ``run`` makes of every pass over joined rows, in the places of the batch.

    Args:
        model: a model, or an engine around one.
        joined: N sequences.
        run: gives values by token of a pass, size = (n, l, ...).

    Returns:
        size = (N, L, ...); what stands where there is no token means nothing.
    """
    with taking_rows(unwrap(model), joined.owners, len(joined.places)):
        found = by_token(model, run, joined.present)  # size = (R, J, ...)
    rows = found.flatten(0, 1).unsqueeze(-1).flatten(1)  # size = (R · J, ...)
    # Of tokens that several sequences have, the gradient is summed in one order, always the same.
    return F.embedding(joined.places, rows).view(*joined.places.shape, *found.shape[2:])


def __getattr__(name: str) -> Any:
    """What callers of an earlier interface still import from here."""
    if name == "grouped_log_probs":
        from safe_rlhf_panacea.forward.log_probs import grouped_log_probs

        return grouped_log_probs
    raise AttributeError(name)
