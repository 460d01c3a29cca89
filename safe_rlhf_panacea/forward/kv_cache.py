"""A key-value cache that is allocated once and written in place.

transformers' own grows by concatenation: every token copies all that came before it, which was
half of the time that a small model spent on generation.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, size = (B, heads, capacity, head_dim), filled from the left."""

    def __init__(self, capacity: int) -> None:
        """Remember the capacity; memory is taken when the first keys come."""
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(*like.shape[:2], self.capacity, like.size(-1))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens, size = (B, heads, T, head_dim); returns all so far."""
        if self.length == 0:
            self.key_buffer = self._allocate(key_states)
            self.value_buffer = self._allocate(value_states)
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        end = self.length + key_states.size(-2)
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self.length = end
        return self._filled()

    def _filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = self.key_buffer[:, :, : self.length]
        self.values = self.value_buffer[:, :, : self.length]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Go on with these rows, size = (n,); in place where they are fewer than before."""
        if self.length == 0:
            return
        rows, (keys, values) = beam_idx.numel(), self._filled()
        if rows > keys.size(0):  # each prompt's, for all its responses
            self.key_buffer = self.key_buffer.index_select(0, beam_idx)
            self.value_buffer = self.value_buffer.index_select(0, beam_idx)
        else:
            keys[:rows], values[:rows] = keys[beam_idx], values[beam_idx]
            self.key_buffer, self.value_buffer = self.key_buffer[:rows], self.value_buffer[:rows]
        self._filled()


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """A cache for ``capacity`` tokens; layers of another kind (sliding windows) stay."""
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache
