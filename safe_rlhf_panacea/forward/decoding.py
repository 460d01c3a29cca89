"""The rows of a batch, decoded token by token; those that have ended leave."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from safe_rlhf_panacea.adapter import taking_rows
from safe_rlhf_panacea.base.losses import position_ids_from_mask
from safe_rlhf_panacea.forward.kv_cache import preallocated_cache

# Share of the present rows that must have ended before they leave, which costs a copy of the cache.
LEAVING = 0.125
# Steps between two looks at who has ended, by device: for an accelerator the host has to wait.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_OTHERWISE = 8


class Decoding(ExitStack):
    """One decoding of a batch, a context in which rows can leave with their λ.

    Attributes:
        rows: which rows of the batch are present, int64, size = (n,).
        ended: which of these have ended, bool, size = (n,).
    """

    def __init__(
        self,
        model: Any,
        input_ids: torch.Tensor,  # size = (B, S), left-padded
        attention_mask: torch.Tensor,  # size = (B, S)
        steps: int,
        copies: int = 1,
    ) -> None:
        """Begin with all rows; ``steps`` tokens at most will follow the prompts.

        Of ``copies`` responses to each prompt, side by side, the prompt is read once.
        """
        super().__init__()
        self.model, self.length = model, input_ids.size(1)
        self.batch, self.copies = copies * input_ids.size(0), copies
        # By transformers' types it wants a LongTensor, which torch's functions never return.
        self.cache: Any = preallocated_cache(model.config, self.length + steps)
        # All that is decoded may be attended to: a row that has ended no longer counts.
        self.attended = torch.nn.functional.pad(attention_mask.bool(), (0, steps), value=True)
        self.current, self.positions = input_ids, position_ids_from_mask(attention_mask)
        # Of each prompt's rows, which have one λ, the first.
        self.rows = torch.arange(0, self.batch, copies, device=input_ids.device)
        self.ended = torch.zeros_like(self.rows, dtype=torch.bool)
        self.step = 0
        sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self.takes_ready_masks = sdpa and not any(self.cache.is_sliding)

    def __enter__(self) -> Decoding:
        """Read the prompts at their own λ, where they are fewer than the rows."""
        if self.copies > 1:
            self.enter_context(taking_rows(self.model, self.rows, self.batch))
        return self

    def _mask(self) -> torch.Tensor:
        """What this step may look at, size = (n, T) or, ready for use, (n, 1, 1, T).

        A single new token may look at all that is attended; handing transformers that mask in four
        dimensions saves it from building one at every step. Windows it must cut out itself.
        """
        attended = self.attended[:, : self.length]
        ready = self.step > 0 and self.takes_ready_masks
        return attended[:, None, None, :] if ready else attended.long()

    def logits(self) -> torch.Tensor:
        """Of the next token, size = (n, V)."""
        # A number would cut the last place out of a prompt as a view with gaps, and the product of
        # such a view with a large vocabulary takes a slow way.
        last = 1 if self.step else self.rows.new_tensor([self.length - 1])
        logits = self.model(
            input_ids=self.current,
            attention_mask=self._mask(),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, -1]
        return self._repeat(logits) if self.step == 0 and self.copies > 1 else logits

    def _repeat(self, logits: torch.Tensor) -> torch.Tensor:
        """Go on with all rows, size = (B, V) to (B · copies, V)."""
        self.close()  # the batch's own λ
        self.rows = torch.arange(self.batch, device=self.rows.device)
        self.cache.reorder_cache(self.rows // self.copies)
        self.ended = torch.zeros_like(self.rows, dtype=torch.bool)
        self.positions = self.positions.repeat_interleave(self.copies, dim=0)
        self.attended = self.attended.repeat_interleave(self.copies, dim=0)
        return logits.repeat_interleave(self.copies, dim=0)

    def append(self, tokens: torch.Tensor, ends: torch.Tensor) -> bool:
        """Take the chosen tokens, and which of them end their row; size = (n,) both.

        Returns:
            Whether all rows are known to have ended.
        """
        self.current, self.positions = tokens[:, None], self.positions[:, -1:] + 1
        self.ended = self.ended | ends
        self.length, self.step = self.length + 1, self.step + 1
        if self.step % LOOK_EVERY.get(tokens.device.type, LOOK_EVERY_OTHERWISE):
            return False
        present, gone = self.rows.numel(), int(self.ended.sum())
        if LEAVING * present <= gone < present:
            self._keep(self.ended.logical_not().nonzero().squeeze(-1))
        return gone == present

    def _keep(self, places: torch.Tensor) -> None:
        self.rows, self.ended = self.rows[places], self.ended[places]
        self.current, self.positions = self.current[places], self.positions[places]
        self.attended = self.attended[places]
        self.cache.reorder_cache(places)
        self.close()  # the batch's own λ, of which the rows are then taken
        self.enter_context(taking_rows(self.model, self.rows, self.batch))
