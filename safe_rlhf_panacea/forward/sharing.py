"""What sequences begin with goes through a model once, where the model allows it.

The two responses of a pair, or those of a group, become one row: their common beginning, then the
rest of each. No token of one rest attends to another's, and every rest goes on with the positions
of the beginning, so that each number is that of a row of its own. A quarter of the tokens of
hh-rlhf's pairs is saved, and of a group's prompt all copies but one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe_rlhf_panacea.adapter import taking_rows
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.forward.passes import (
    Pass,
    by_token,
    evaluating,
    pass_options,
    repeats_passes_by_row,
)

PADDING, COMMON = -1, 0  # kinds of tokens; those of the i-th sequence's rest are i, from 1 on
ROUNDING = 1e-2  # at most, of what a token changes where it is seen; of bfloat16
# Names of what limits how far a layer sees, in transformers' configurations.
WINDOWS = (
    *("sliding_window", "attention_window", "window_size", "attention_chunk_size"),
    *("attention_types", "attention_layers"),
)
# Whether a model keeps tokens apart that a mask keeps apart: not all that take one do.
_obeys: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def across(rows: int, blocks: int) -> Tensor:
    """Groups of a row of each block, as better and worse ones; size = (rows / blocks, blocks)."""
    return torch.arange(rows).view(blocks, -1).t()


def side_by_side(rows: int, copies: int) -> Tensor:
    """Groups of ``copies`` rows one after the other; size = (rows / copies, copies)."""
    return torch.arange(rows).view(-1, copies)


def takes_positions(model: nn.Module) -> bool:
    """Whether a model can be told where in its sequence each token stands."""
    return "position_ids" in inspect.signature(type(model).forward).parameters


# -- joined rows ----------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """R rows of sequences that begin alike; J tokens are in the longest."""

    ids: Tensor  # size = (R, J), as the next four
    positions: Tensor  # of every token within its own sequence
    kinds: Tensor  # the beginning's, a rest's, or padding
    counted: Tensor  # whether something of a token is wanted
    predictors: Tensor  # the column that predicts it
    places: Tensor  # where each token of the batch is in the flattened rows, size = (N, L)
    owners: Tensor  # a row of the batch that has a joined row's λ, size = (R,)

    def inputs(self, module: nn.Module, part: Pass) -> dict[str, Tensor]:
        """Of a forward pass over some rows."""
        return {
            "input_ids": part.of(self.ids),
            "position_ids": part.of(self.positions),
            "attention_mask": mask_of(module, part.of(self.kinds)),
        }


def mask_of(module: Any, kinds: Tensor) -> Tensor:
    """Which token attends to which, for kinds of tokens, size = (n, l); size = (n, 1, l, l)."""
    before = torch.ones(kinds.size(1), kinds.size(1), dtype=torch.bool, device=kinds.device).tril()
    asking, asked = kinds.unsqueeze(2), kinds.unsqueeze(1)
    allowed = ((asked.eq(COMMON) | asked.eq(asking)) & before).unsqueeze(1)
    if module.config._attn_implementation == "sdpa":
        return allowed
    dtype = next(module.parameters()).dtype
    added = torch.zeros(allowed.shape, dtype=dtype, device=kinds.device)
    return added.masked_fill(~allowed, torch.finfo(dtype).min)


def join(ids: Tensor, needed: Tensor, counted: Tensor, groups: Tensor) -> Joined:
    """The sequences of each group in one row.

    The first three are of size (N, L), ``needed`` without gaps in a row; groups as in ``shared``.
    """
    first, lengths = needed.long().argmax(dim=1), needed.sum(dim=1)  # size = (N,)
    token = torch.arange(ids.size(1), device=ids.device)
    aligned = ids.gather(1, (first.unsqueeze(1) + token).clamp(max=ids.size(1) - 1))[groups]
    alike = aligned.eq(aligned[:, :1]) & (token < lengths.unsqueeze(1))[groups]  # size = (R, G, L)
    common = alike.all(dim=1).long().cumprod(dim=1).sum(dim=1)  # tokens, size = (R,)
    rests = lengths[groups] - common.unsqueeze(1)  # size = (R, G)
    ends = common.unsqueeze(1) + rests.cumsum(dim=1)
    rows, width = len(groups), int(ends[:, -1].max())

    def by_row(of_groups: Tensor) -> Tensor:
        """What is known by group and member, size = (R, G), in the batch's order, (N, 1)."""
        return torch.empty_like(first).index_put((groups.flatten(),), of_groups.flatten())[:, None]

    member = torch.arange(groups.size(1), device=groups.device).expand_as(groups)
    of_beginning = by_row(common.unsqueeze(1).expand_as(groups))
    moved = by_row(ends - rests) - of_beginning  # how far a rest's tokens move to the right
    begins = by_row(torch.arange(rows, device=groups.device).unsqueeze(1).expand_as(groups)) * width
    token = token - first.unsqueeze(1)  # size = (N, L)
    in_rest = token >= of_beginning
    column = token + moved * in_rest
    places = torch.where(needed, begins + column, 0)

    def spread(values: Tensor, where: Tensor, otherwise: int = 0) -> Tensor:
        """Values by token of the batch, size = (N, L), in the joined rows."""
        flat = torch.full((rows * width,), otherwise, dtype=values.dtype, device=values.device)
        return flat.index_put((places[where],), values[where]).view(rows, width)

    predictors = (column - 1 - moved * (token == of_beginning)).clamp(min=0)
    return Joined(
        ids=spread(ids, needed),
        positions=spread(token, needed),
        kinds=spread((by_row(member) + 1) * in_rest, needed, PADDING),
        counted=spread(counted, counted),
        predictors=spread(predictors, needed),
        places=places,
        owners=groups[:, 0],
    )


# -- whether and how ------------------------------------------------------------------


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
            except Exception:  # whatever a model may raise that does not know such masks
                return False
            changes.append((last[0] - last[1]).abs().max().item())
    return changes[0] <= ROUNDING * changes[1]


def _sees_all(module: Any) -> bool:
    """Whether no layer has a window, or a mask of its own over columns.

    A ready mask replaces a window that transformers makes, and columns of a joined row are no
    positions: GPT-Neo masks by them, in a buffer.
    """
    config = module.config.get_text_config()
    windows = any(getattr(config, name, None) for name in WINDOWS)
    windows |= bool(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    own = (b for b in module.buffers() if b.dtype in (torch.bool, torch.uint8) and b.dim() > 1)
    return not windows and not any(b.size(-1) == b.size(-2) > 1 for b in own)


def can_share(model: Any, batch: int) -> bool:
    """Whether a causal model, or an engine around one, gives each sequence of a joined row its own.

    Raises:
        AdapterError: the model is not at the λ of so many rows, nor at a single one.
    """
    module = unwrap(model)
    known = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if known not in ("sdpa", "eager") or not takes_positions(module):
        return False
    if not pass_options(module).share_prefixes or repeats_passes_by_row(module):
        return False
    if module not in _obeys:
        _obeys[module] = _sees_all(module) and _found_to_obey(model, batch)
    return _obeys[module]


def shared(
    model: Any,
    ids: Tensor,  # size = (N, L)
    needed: Tensor,  # size = (N, L), bool
    counted: Tensor,  # size = (N, L), bool: of which of them something is wanted
    groups: Tensor | None,  # size = (R, G), each of the N once
) -> Joined | None:
    """Sequences of which each group has one λ, joined as costs least; None: where none is.

    Whole groups, or parts of them where rows would grow too long for attention, or for a pass.
    """
    if groups is None or groups.size(1) == 1 or not can_share(model, len(ids)):
        return None
    begins = (needed[:, 1:] & ~needed[:, :-1]).sum(dim=1) + needed[:, 0]  # size = (N,)
    if not begins.eq(1).all():
        return None  # a row with gaps, or with no token
    size, groups = groups.size(1), groups.to(ids.device)
    width = unwrap(model).config.get_text_config().hidden_size

    def cost(lengths: Tensor) -> Tensor:
        """Of rows of tokens, in tokens that attend to nothing.

        A layer's products take about 24 E² operations per token, and attention 4 E for each token
        that it sees.
        """
        return (lengths * (1 + lengths / (6 * width))).sum()

    lengths = needed.sum(dim=1)  # size = (N,)
    longest = max(pass_options(model).most_tokens(ids.device), int(lengths.max()))
    best, least = None, cost(lengths)
    for part in (size // parts for parts in range(1, size) if size % parts == 0):
        joined = join(ids, needed, counted, groups.reshape(-1, part))
        costs = cost(joined.kinds.ne(PADDING).sum(dim=1))
        if costs < least and joined.ids.size(1) <= longest:
            best, least = joined, costs
    return best


def through(model: Any, joined: Joined, run: Callable[[Pass], Tensor]) -> Tensor:
    """What ``run`` makes of the tokens of every pass, size = (n, l, ...), in the batch's places.

    What stands where there is no token means nothing; size = (N, L, ...).
    """
    with taking_rows(unwrap(model), joined.owners, len(joined.places)):
        found = by_token(model, run, joined.kinds.ne(PADDING))  # size = (R, J, ...)
    rows = found.flatten(0, 1).unsqueeze(-1).flatten(1)  # size = (R · J, ...)
    # Of tokens that several sequences have, the gradient is summed in one order, always the same.
    return F.embedding(joined.places, rows).view(*joined.places.shape, *found.shape[2:])
