"""A key-value cache whose rows are sequences of their own: they come, grow and go.

Row b holds its sequence from column 0 on and writes its next token behind it. So a sequence joins
by one copy, leaves by one, and none is ever moved because another is longer. All other columns are
zero: attention multiplies masked columns with 0, which a NaN that somebody left would survive.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

BLOCK = 128  # columns are allocated in such steps


class SlotLayer(DynamicLayer):
    """One layer's keys and values, size = (rows, heads, columns, head_dim) each."""

    def __init__(self, cache: SlotCache) -> None:
        """Take no memory yet."""
        super().__init__()
        self.cache = cache
        self.buffers: list[torch.Tensor] = []

    def reserve(self, rows: int, columns: int, like: list[torch.Tensor]) -> None:
        """Room for so many sequences of so many tokens; what is there stays."""
        if self.buffers and self.buffers[0].size(0) >= rows and self.buffers[0].size(2) >= columns:
            return
        old, new = self.buffers, []
        if old:
            rows, columns = max(rows, old[0].size(0)), max(columns, old[0].size(2))
        for i, states in enumerate(like):
            buffer = states.new_zeros(rows, states.size(1), columns, states.size(3))
            if old:
                buffer[: old[i].size(0), :, : old[i].size(2)] = old[i]
            new.append(buffer)
        self.buffers = new  # at the end: there may be no memory for them
        self.dtype, self.device = like[0].dtype, like[0].device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token per row, size = (B, heads, 1, head_dim); returns all that is read."""
        cache = self.cache
        rows = torch.arange(len(cache), device=key_states.device)
        read = []
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[rows, :, cache.lengths] = states[:, :, 0]
            read.append(buffer[: len(cache), :, : cache.width])
        self.keys, self.values = read
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns before the one that a step adds."""
        return self.cache.width - 1


class SlotCache(DynamicCache):
    """The cache of a batch whose sequences differ in length.

    Attributes:
        sizes: tokens of each sequence.
        lengths: the same as a tensor, size = (B,).
        width: columns that the next step reads.
    """

    def __init__(self, max_rows: int, max_length: int) -> None:
        """Start empty; memory is taken as it is needed."""
        super().__init__()
        self.max_rows, self.max_length = max_rows, max_length
        self.sizes: list[int] = []
        self._count()

    def __len__(self) -> int:
        """Sequences."""
        return len(self.sizes)

    @property
    def slots(self) -> list[SlotLayer]:
        """Its layers, by their type."""
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    def _count(self, device: torch.device | None = None) -> None:
        self.lengths = torch.tensor(self.sizes, dtype=torch.long, device=device)
        self.width = max(self.sizes, default=0) + 1

    def _reserve(self, rows: int, columns: int, like: list[list[torch.Tensor]]) -> None:
        rows = min(rows, self.max_rows)
        columns = min(-(-columns // BLOCK) * BLOCK, self.max_length)
        for layer, states in zip(self.slots, like, strict=True):
            layer.reserve(rows, columns, states)

    def add(self, filled: DynamicCache, sizes: list[int]) -> None:
        """Take in sequences that another cache holds from column 0 on, padded on the right."""
        if not self.layers:
            self.layers = [SlotLayer(self) for _ in filled.layers]
        layers: list[Any] = list(filled.layers)  # other kinds are refused before
        states: list[list[torch.Tensor]] = [[layer.keys, layer.values] for layer in layers]
        before, width, device = len(self), max(sizes), states[0][0].device
        ends = torch.tensor(sizes, device=device)[:, None]
        padding = (torch.arange(width, device=device) >= ends)[:, None, :, None]  # (J, 1, width, 1)
        # Twice the rows that were there: seldom, then, are they copied.
        self._reserve(max(before + len(sizes), 2 * before), max(width, self.width) + 1, states)
        for layer, pair in zip(self.slots, states, strict=True):
            for buffer, new in zip(layer.buffers, pair, strict=True):
                kept = new[:, :, :width].masked_fill(padding, 0)
                buffer[before : before + len(sizes), :, :width] = kept
        self.sizes += sizes
        self._count(device)

    def prepare(self) -> torch.Tensor:
        """Make room for a token per row; returns where each may look, bool, size = (B, width)."""
        self._reserve(len(self), self.width, [layer.buffers for layer in self.slots])
        columns = torch.arange(self.width, device=self.lengths.device)
        return columns <= self.lengths[:, None]

    def advance(self) -> None:
        """The token that each row has written counts."""
        self.sizes = [size + 1 for size in self.sizes]
        self.lengths = self.lengths + 1
        self.width += 1

    def remove(self, row: int) -> None:
        """Forget a sequence; the last one takes its row."""
        for layer in self.slots:
            for buffer in layer.buffers:
                buffer[row] = buffer[len(self) - 1]
                buffer[len(self) - 1] = 0
        self.sizes[row] = self.sizes[-1]
        self.sizes.pop()
        self._count(self.lengths.device)
