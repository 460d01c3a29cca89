"""Making batches: padding and masks."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


class CollatorBase(metaclass=abc.ABCMeta):
    """Makes a batch of samples."""

    def __init__(self, pad_token_id: int) -> None:
        """Pad with this id; masks come from lengths, so it may equal any other id."""
        self.pad_token_id = pad_token_id

    @abc.abstractmethod
    def __call__(self, samples: list[Any]) -> Mapping[str, Any]:
        """Collate samples."""

    def pad(
        self, sequences: Iterable[torch.Tensor], side: str = "right", value: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad sequences to the longest.

        Args:
            sequences: B of them, size = (L_b,) each.
            side: ``right`` or ``left``.
            value: what to pad with; the pad token unless given.

        Returns:
            ids and boolean mask, size = (B, L) each.
        """
        sequences = list(sequences)
        value = self.pad_token_id if value is None else value
        ids = pad_sequence(sequences, batch_first=True, padding_value=value, padding_side=side)
        lengths = torch.tensor([sequence.numel() for sequence in sequences])  # size = (B,)
        mask = torch.arange(ids.size(1)) < lengths.unsqueeze(1)  # size = (B, L)
        return ids, mask.flip(1) if side == "left" else mask
