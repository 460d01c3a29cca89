"""Sequences that begin alike, in one row: their common beginning, then the rest of each.

No token of one rest attends to another's, and every rest goes on with the positions of the
beginning, so that each number is that of a row of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from safe_rlhf_panacea.forward.passes import Pass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PADDING, COMMON = -1, 0  # kinds of tokens; those of the i-th sequence's rest are i, from 1 on


@dataclass(frozen=True)
class Joined:
    """R rows of sequences that begin alike; J tokens are in the longest.

    Attributes:
        ids: size = (R, J).
        positions: of every token within its own sequence, size = (R, J).
        kinds: the beginning's, a rest's, or padding, size = (R, J).
        counted: whether a token's log-probability is wanted, size = (R, J).
        predictors: the column that predicts it, size = (R, J).
        places: where each token of the batch is in the flattened rows, size = (N, L).
        owners: a row of the batch that has a joined row's λ, size = (R,).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    kinds: torch.Tensor
    counted: torch.Tensor
    predictors: torch.Tensor
    places: torch.Tensor
    owners: torch.Tensor

    @property
    def present(self) -> torch.Tensor:
        """Where there is a token, size = (R, J)."""
        return self.kinds.ne(PADDING)

    def inputs(self, module: PreTrainedModel, part: Pass) -> dict[str, torch.Tensor]:
        """Of a forward pass over some rows."""
        return {
            "input_ids": part.of(self.ids),
            "position_ids": part.of(self.positions),
            "attention_mask": mask_of(module, part.of(self.kinds)),
        }


def _common_tokens(
    input_ids: torch.Tensor, first: torch.Tensor, lengths: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """How many tokens the sequences of each group begin with, size = (R,)."""
    width = input_ids.size(1)
    token = torch.arange(width, device=input_ids.device)
    aligned = input_ids.gather(1, (first.unsqueeze(1) + token).clamp(max=width - 1))[groups]
    alike = aligned.eq(aligned[:, :1]) & (token < lengths.unsqueeze(1))[groups]  # size = (R, G, L)
    return alike.all(dim=1).long().cumprod(dim=1).sum(dim=1)


def join(
    input_ids: torch.Tensor,  # size = (N, L)
    needed: torch.Tensor,  # size = (N, L), bool, without gaps in a row
    counted: torch.Tensor,  # size = (N, L), bool
    groups: torch.Tensor,  # size = (R, G), each of the N rows once
) -> Joined:
    """The sequences of each group in one row."""
    first, lengths = needed.long().argmax(dim=1), needed.sum(dim=1)  # size = (N,)
    common = _common_tokens(input_ids, first, lengths, groups)  # size = (R,)
    rests = lengths[groups] - common.unsqueeze(1)  # size = (R, G)
    ends = common.unsqueeze(1) + rests.cumsum(dim=1)
    rows, width = len(groups), int(ends[:, -1].max())

    def by_row(of_groups: torch.Tensor) -> torch.Tensor:
        """What is known by group and member, size = (R, G), in the batch's order, (N, 1)."""
        return torch.empty_like(first).index_put((groups.flatten(),), of_groups.flatten())[:, None]

    member = torch.arange(groups.size(1), device=groups.device).expand_as(groups)
    of_beginning = by_row(common.unsqueeze(1).expand_as(groups))
    moved = by_row(ends - rests) - of_beginning  # how far a rest's tokens move to the right
    begins = by_row(torch.arange(rows, device=groups.device).unsqueeze(1).expand_as(groups)) * width
    token = torch.arange(input_ids.size(1), device=first.device) - first.unsqueeze(1)  # (N, L)
    in_rest = token >= of_beginning
    column = token + moved * in_rest
    places = torch.where(needed, begins + column, 0)

    def spread(values: torch.Tensor, where: torch.Tensor, otherwise: int = 0) -> torch.Tensor:
        """Values by token of the batch, size = (N, L), in the joined rows."""
        flat = torch.full((rows * width,), otherwise, dtype=values.dtype, device=values.device)
        return flat.index_put((places[where],), values[where]).view(rows, width)

    predictors = (column - 1 - moved * (token == of_beginning)).clamp(min=0)
    return Joined(
        ids=spread(input_ids, needed),
        positions=spread(token, needed),
        kinds=spread((by_row(member) + 1) * in_rest, needed, PADDING),
        counted=spread(counted, counted),
        predictors=spread(predictors, needed),
        places=places,
        owners=groups[:, 0],
    )


def mask_of(module: PreTrainedModel, kinds: torch.Tensor) -> torch.Tensor:
    """Which token attends to which, for kinds of tokens, size = (n, l); size = (n, 1, l, l)."""
    before = torch.ones(kinds.size(1), kinds.size(1), dtype=torch.bool, device=kinds.device).tril()
    asking, asked = kinds.unsqueeze(2), kinds.unsqueeze(1)
    allowed = ((asked.eq(COMMON) | asked.eq(asking)) & before).unsqueeze(1)
    if module.config._attn_implementation == "sdpa":
        return allowed
    dtype = next(module.parameters()).dtype
    lowest = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=kinds.device).masked_fill(
        ~allowed, lowest
    )


def across(rows: int, blocks: int) -> torch.Tensor:
    """Groups of one row of each of several blocks; of pairs, all better and then all worse ones.

    Returns:
        size = (rows / blocks, blocks).
    """
    return torch.arange(rows).view(blocks, -1).t()


def side_by_side(rows: int, copies: int) -> torch.Tensor:
    """Groups of so many rows one after the other; size = (rows / copies, copies)."""
    return torch.arange(rows).view(-1, copies)
