"""The rows of a batch, decoded token by token; those that have ended leave."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from safe_rlhf_panacea.adapter import taking_rows
from safe_rlhf_panacea.forward.passes import position_ids_from_mask

# Share of the present rows that must have ended before they leave, which costs a copy of the cache.
LEAVING = 0.125
# Steps between two looks at who has ended, by device: for an accelerator the host has to wait.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_OTHERWISE = 8


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, size = (B, heads, capacity, head_dim), filled from the left.

    transformers' own grows by concatenation: every token copies all that came before it, which was
    half of the time that a small model spent on generation.
    """

    def __init__(self, capacity: int) -> None:
        """Remember the capacity; memory is taken when the first keys come."""
        super().__init__()
        self.capacity, self.length = capacity, 0
        self.buffers: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens, size = (B, heads, T, head_dim); returns all so far."""
        new = (key_states, value_states)
        if not self.buffers:
            self.buffers = [x.new_empty(*x.shape[:2], self.capacity, x.size(-1)) for x in new]
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        end = self.length + key_states.size(-2)
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, self.length : end] = states
        self.length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows, size = (n,); in place where they are fewer than before."""
        rows = beam_idx.numel()
        for index, buffer in enumerate(self.buffers):
            if rows > buffer.size(0):  # each prompt's, for all its responses
                self.buffers[index] = buffer.index_select(0, beam_idx)
            else:
                filled = buffer[:, :, : self.length]
                filled[:rows] = filled[beam_idx]
                self.buffers[index] = buffer[:rows]
        if self.buffers:
            self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """A cache for ``capacity`` tokens; layers of another kind (sliding windows) stay."""
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


class Decoding(ExitStack):
    """One decoding of a batch, a context in which rows that have ended leave with their λ."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, steps: int, copies: int) -> None:
        """Begin with prompts, size = (B, S), padded on the left, which ``steps`` tokens may follow.

        Of ``copies`` responses to each prompt, side by side, the prompt is read once.
        """
        super().__init__()
        self.model, self.length = model, ids.size(1)
        self.batch, self.copies = copies * ids.size(0), copies
        # By transformers' types it wants a LongTensor, which torch's functions never return.
        self.cache: Any = preallocated_cache(model.config, self.length + steps)
        # All that is decoded may be attended to: a row that has ended no longer counts.
        self.attended = F.pad(mask.bool(), (0, steps), value=True)
        self.current, self.positions = ids, position_ids_from_mask(mask)
        # Rows of the batch that are present, size = (n,): of each prompt's, with one λ, the first.
        self.rows = torch.arange(0, self.batch, copies, device=ids.device)
        self.ended = torch.zeros_like(self.rows, dtype=torch.bool)  # which of these have ended
        self.step = 0
        sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self.takes_ready_masks = sdpa and not any(self.cache.is_sliding)
        if copies > 1:  # the prompts, which are fewer than the rows, are read at their own λ
            self.enter_context(taking_rows(model, self.rows, self.batch))

    def logits(self) -> Tensor:
        """Of the next token, size = (n, V)."""
        attended = self.attended[:, : self.length]
        # A single new token may look at all that is attended; handing transformers that mask in
        # four dimensions saves it from building one at every step. Windows it must cut out itself.
        ready = self.step > 0 and self.takes_ready_masks
        # A number would cut the last place out of a prompt as a view with gaps, and the product of
        # such a view with a large vocabulary takes a slow way.
        last = 1 if self.step else self.rows.new_tensor([self.length - 1])
        logits = self.model(
            input_ids=self.current,
            attention_mask=attended[:, None, None, :] if ready else attended.long(),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, -1]
        if self.step > 0 or self.copies == 1:
            return logits
        # From here on with all rows of the batch, at its own λ.
        self.close()
        self.rows = torch.arange(self.batch, device=self.rows.device)
        self.cache.reorder_cache(self.rows // self.copies)
        self.ended = torch.zeros_like(self.rows, dtype=torch.bool)
        self.positions = self.positions.repeat_interleave(self.copies, dim=0)
        self.attended = self.attended.repeat_interleave(self.copies, dim=0)
        return logits.repeat_interleave(self.copies, dim=0)

    def append(self, tokens: Tensor, ends: Tensor) -> bool:
        """Take the chosen tokens, and which end their row, size = (n,): whether all have ended."""
        self.current, self.positions = tokens[:, None], self.positions[:, -1:] + 1
        self.ended = self.ended | ends
        self.length, self.step = self.length + 1, self.step + 1
        if self.step % LOOK_EVERY.get(tokens.device.type, LOOK_EVERY_OTHERWISE):
            return False
        present, gone = self.rows.numel(), int(self.ended.sum())
        if LEAVING * present <= gone < present:
            left = self.ended.logical_not().nonzero().squeeze(-1)
            self.rows, self.ended = self.rows[left], self.ended[left]
            self.current, self.positions = self.current[left], self.positions[left]
            self.attended = self.attended[left]
            self.cache.reorder_cache(left)
            self.close()  # the batch's own λ, of which the rows are then taken
            self.enter_context(taking_rows(self.model, self.rows, self.batch))
        return gone == present
