"""What a score model returns, and where a sequence ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from safe_rlhf_panacea.errors import UserError


@dataclass
class ScoreModelOutput(ModelOutput):
    """What a score model returns.

    Attributes:
        scores: at every token, float32, size = (B, L, D).
        end_scores: at the last attended token, float32, size = (B, D).
        last_hidden_state: size = (B, L, E).
        end_last_hidden_state: at the last attended token, size = (B, E).
        end_index: position of the last attended token, size = (B,).
    """

    scores: torch.Tensor | None = None
    end_scores: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    end_last_hidden_state: torch.Tensor | None = None
    end_index: torch.Tensor | None = None


def last_attended(attention_mask: torch.Tensor) -> torch.Tensor:
    """Position of the last attended token, size = (B,); 0 in a row that attends to none."""
    positions = torch.arange(attention_mask.size(1), device=attention_mask.device)
    return (positions * attention_mask.bool()).amax(dim=1)


def check_attended(attention_mask: torch.Tensor) -> None:
    """Refuse a mask with a row that attends to no token.

    Raises:
        UserError: naming the first such row.
    """
    if torch.compiler.is_compiling():
        return
    empty = ~attention_mask.bool().any(dim=1)
    if empty.any():
        rows = empty.nonzero().flatten().tolist()
        raise UserError(f"row {rows[0]} of the attention mask attends to no token: it has no score")
