"""Token sequences of different lengths, held as one flat tensor."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import torch


class RaggedTokens:
    """Sequences of token ids, 4 bytes per token instead of a Python object each."""

    def __init__(self, sequences: Iterable[list[int]]) -> None:
        """Copy the sequences."""
        flat = array("i")
        ends = array("q", [0])
        for sequence in sequences:
            flat.extend(sequence)
            ends.append(len(flat))
        self.flat = torch.from_numpy(np.array(flat, dtype=np.int32))  # size = (total tokens,)
        self.ends = ends.tolist()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> torch.Tensor:
        """One sequence, size = (L,), int64."""
        return self.flat[self.ends[index] : self.ends[index + 1]].long()
