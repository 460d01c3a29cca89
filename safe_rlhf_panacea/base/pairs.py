"""Log-probabilities of pairs of responses; what both sequences begin with goes through once.

A pair is one row where the model allows it: the common beginning, the rest of the better sequence,
the rest of the worse one. No token of one rest attends to the other, and both rests continue the
positions of the beginning, so that every number is that of two rows of their own. Of hh-rlhf's
tokens a quarter is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from safe_rlhf_panacea.adapter import taking_rows
from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.base.log_probs import takes_positions, token_log_probs
from safe_rlhf_panacea.base.passes import Pass, by_token, repeats_passes_by_row
from safe_rlhf_panacea.base.vocabulary import chosen_log_probs

COMMON, BETTER, WORSE, PADDING = range(4)
NOTHING = 1e-2  # of what a token changes where it is seen: rounding in bfloat16, and no more


@dataclass(frozen=True)
class JoinedPairs:
    """B pairs, a row each; J is the longest.

    Attributes:
        ids: size = (B, J).
        positions: within its own sequence, of every token, size = (B, J).
        kinds: which of the four every token is, size = (B, J).
        counted: whether its log-probability is wanted, size = (B, J).
        predictors: the column that predicts it, size = (B, J).
        places: columns of the tokens of all better, then of all worse sequences, (2B, L).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    kinds: torch.Tensor
    counted: torch.Tensor
    predictors: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of(
        cls,
        input_ids: torch.Tensor,  # size = (2B, L), all better sequences, then all worse ones
        needed: torch.Tensor,  # size = (2B, L), bool, without gaps from the first column on
        counted: torch.Tensor,  # size = (2B, L), bool
    ) -> JoinedPairs:
        """Join what ``needed`` shows."""
        (better, worse), (of_better, of_worse) = input_ids.chunk(2), counted.chunk(2)
        better_length, worse_length = needed.sum(dim=1, keepdim=True).chunk(2)  # size = (B, 1)
        both = needed.chunk(2)[0] & needed.chunk(2)[1]
        common = (better.eq(worse) & both).long().cumprod(dim=1).sum(dim=1, keepdim=True)
        total = better_length + worse_length - common  # size = (B, 1)
        column = torch.arange(int(total.max()), device=input_ids.device)  # size = (J,)
        in_worse = column >= better_length  # size = (B, J)
        skipped = torch.where(in_worse, better_length - common, 0)
        positions = (column - skipped).clamp(max=input_ids.size(1) - 1)
        kinds = BETTER - (column < common).long() + in_worse.long() + (column >= total).long()
        also = of_worse.gather(1, positions)
        wanted = torch.where(in_worse, also, of_better.gather(1, positions))
        wanted |= kinds.eq(COMMON) & also
        begins = column == better_length  # the worse rest's first token, predicted as the better's
        token = torch.arange(input_ids.size(1), device=input_ids.device)  # size = (L,)
        moved = torch.where(token < common, token, token - common + better_length)
        return cls(
            ids=torch.where(in_worse, worse.gather(1, positions), better.gather(1, positions)),
            positions=positions,
            kinds=kinds,
            counted=wanted & kinds.ne(PADDING),
            predictors=(torch.where(begins, common, column) - 1).clamp(min=0),
            places=torch.cat([token.expand_as(moved), moved]).clamp(max=len(column) - 1),
        )

    def inputs(self, module: nn.Module, part: Pass) -> dict[str, torch.Tensor]:
        """Of a forward pass over some rows."""
        return {
            "input_ids": part.of(self.ids),
            "position_ids": part.of(self.positions),
            "attention_mask": mask_of(module, part.of(self.kinds)),
        }


def mask_of(module: nn.Module, kinds: torch.Tensor) -> torch.Tensor:
    """Which token attends to which, for kinds of tokens, size = (n, l); size = (n, 1, l, l)."""
    before = torch.ones(kinds.size(1), kinds.size(1), dtype=torch.bool, device=kinds.device).tril()
    asking, asked = kinds.unsqueeze(2), kinds.unsqueeze(1)
    allowed = ((asked.eq(COMMON) | asked.eq(asking)) & before).unsqueeze(1)
    if module.config._attn_implementation == "sdpa":
        return allowed
    dtype = next(module.parameters()).dtype
    return torch.zeros(allowed.shape, dtype=dtype, device=kinds.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


# Whether a model keeps tokens apart that a mask keeps apart: not all that take one do.
_obeys: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def _found_to_obey(model: Any, batch: int) -> bool:
    """Whether another better response changes nothing of the worse one, but for rounding."""
    module = unwrap(model)
    rows = torch.zeros(2, dtype=torch.long, device=next(module.parameters()).device)
    ids = torch.tensor([[0, 1, 2], [0, 2, 2]], device=rows.device)
    positions = torch.tensor([[0, 1, 1]] * 2, device=rows.device)
    changes = []
    for kinds in ([COMMON, BETTER, WORSE], [COMMON, COMMON, COMMON]):
        mask = mask_of(module, torch.tensor([kinds] * 2, device=rows.device))
        inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
        try:
            with taking_rows(module, rows, batch):
                logits = model(**inputs, use_cache=False).logits[:, 2]  # size = (2, V)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # it does not know such masks
        changes.append((logits[0] - logits[1]).abs().max().item())
    return changes[0] <= NOTHING * changes[1]


def can_join(model: Any, batch: int) -> bool:
    """Whether a model, or an engine around one, gives each sequence of a joined pair its own.

    Args:
        model: a causal language model of transformers.
        batch: rows of the batch at whose λ it stands.
    """
    module = unwrap(model)
    config = getattr(module, "config", None)
    # A ready mask replaces the window of a layer that has one.
    windows = getattr(config, "sliding_window", None) is not None
    windows |= set(getattr(config, "layer_types", None) or ()) > {"full_attention"}
    known = getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
    if windows or not known or not takes_positions(type(module)) or repeats_passes_by_row(module):
        return False
    if module not in _obeys:
        _obeys[module] = _found_to_obey(model, batch)
    return _obeys[module]


def _cost(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Of rows of tokens, in tokens that attend to nothing.

    A layer's products take about 24 E² operations per token, and attention 4 E for each token that
    it sees.
    """
    return (lengths * (1 + lengths / (6 * width))).sum()


def pair_log_probs(
    model: Any,
    input_ids: torch.Tensor,  # size = (2B, L), all better sequences, then all worse ones
    attention_mask: torch.Tensor,  # size = (2B, L)
    counted: torch.Tensor,  # size = (2B, L - 1)
) -> torch.Tensor:
    """``token_log_probs`` of pairs, which have one λ each.

    Args:
        model: a causal language model of transformers, or an engine around one.
        input_ids: prompts and responses, right-padded.
        attention_mask: 1 on tokens.
        counted: which next tokens count; entry t belongs to token t + 1.

    Returns:
        size = (2B, L - 1), float32, 0 where a token does not count.
    """
    wanted = F.pad(counted.bool(), (1, 0))  # size = (2B, L)
    needed = attention_mask.bool() | wanted
    batch, right_padded = len(input_ids), bool((needed[:, :-1] >= needed[:, 1:]).all())
    if not right_padded or not can_join(model, batch):
        return token_log_probs(model, input_ids, attention_mask, counted)
    pairs, module = JoinedPairs.of(input_ids, needed, wanted), unwrap(model)
    present, width = pairs.kinds.ne(PADDING), module.config.get_text_config().hidden_size
    if _cost(present.sum(dim=1), width) >= _cost(needed.sum(dim=1), width):
        return token_log_probs(model, input_ids, attention_mask, counted)

    def run(part: Pass) -> torch.Tensor:
        inputs, where = pairs.inputs(module, part), part.of(pairs.counted)
        predictors = where.nonzero()[:, 0], part.of(pairs.predictors)[where]
        found = chosen_log_probs(model, inputs, predictors, inputs["input_ids"][where])
        return found.new_zeros(where.shape).index_put((where,), found)  # size = (n, l)

    joined = by_token(model, run, present, of_batch=batch)  # size = (B, J)
    return (joined.repeat(2, 1).gather(1, pairs.places) * wanted)[:, 1:]
