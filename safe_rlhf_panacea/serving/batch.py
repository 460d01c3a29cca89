"""Answers with different λ in one batch: they join, take a step together, and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.ways import by_loop, fits
from safe_rlhf_panacea.serving.choosing import Chooser
from safe_rlhf_panacea.serving.jobs import Job
from safe_rlhf_panacea.serving.slots import SlotCache

ATTENTION = {"full_attention", "sliding_attention"}
WINDOWS = ("sliding_window", "window_size")  # the latter is GPT-Neo's
NOT_FINITE = -1  # in the place of a token, where there is none to be drawn


def _told(tokens: torch.Tensor, logits: torch.Tensor) -> list[int]:
    """Tokens, size = (B,), of logits, size = (B, V); ``NOT_FINITE`` where these are not."""
    # The largest: single logits may be -inf, where a model rules a token out.
    return torch.where(logits.amax(dim=-1).isfinite(), tokens, NOT_FINITE).tolist()


def check_model(model: Any, max_length: int) -> None:
    """Refuse models whose sequences cannot share a batch here.

    Raises:
        UserError: it keeps a state that is no key-value cache, or needs prompts without padding,
            or its window is shorter than the sequences.
    """
    config, name = model.config.get_text_config(), type(model).__name__
    kinds = set(getattr(config, "layer_types", None) or ATTENTION)
    if getattr(model, "_is_stateful", False) or not kinds <= ATTENTION:
        raise UserError(f"a {name} cannot be served: not all its layers attend")
    if not fits(model, by_loop):
        raise UserError(f"a {name} cannot be served: rows of a batch would change its answers")
    windows = [getattr(config, name, None) for name in WINDOWS]
    for window in filter(None, windows):
        if max_length > window:
            raise UserError(
                f"--max_length is {max_length}, and the model attends to {window} tokens: "
                "longer sequences cannot be served"
            )


class Batch:
    """The rows of a model that answer at the moment.

    A row's λ and random numbers are its own, so that its answer does not depend on the others
    (up to the rounding of sums, which may differ with the number of rows).

    Attributes:
        jobs: one per row.
    """

    def __init__(
        self, model: Any, adapter: PanaceaAdapter, pad_id: int, max_rows: int, max_length: int
    ) -> None:
        """Start empty."""
        self.model, self.adapter, self.pad_id = model, adapter, pad_id
        self.max_rows, self.max_length = max_rows, max_length
        self.device = next(model.parameters()).device
        self.is_sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self.clear()

    def clear(self) -> None:
        """Drop all rows and the memory that they took."""
        self.jobs: list[Job] = []
        self.cache = SlotCache(self.max_rows, self.max_length)
        self.current = torch.empty(0, dtype=torch.long, device=self.device)
        self._changed()

    def _changed(self) -> None:
        self._chooser: Chooser | None = None

    def _set_preferences(self, jobs: Sequence[Job]) -> None:
        if self.adapter.pref_dim:
            self.adapter.set_preference(torch.stack([job.preference for job in jobs]))

    def join(self, jobs: Sequence[Job]) -> list[int]:
        """Read the prompts of new rows, all at once; returns the first token of each.

        A token is ``NOT_FINITE`` where the model's logits are not finite: that row has to leave.
        """
        from transformers import DynamicCache

        self._changed()
        sizes = [len(job.prompt) for job in jobs]
        width = max(sizes)
        padded = [job.prompt + [self.pad_id] * (width - len(job.prompt)) for job in jobs]
        last = torch.tensor(sizes, device=self.device) - 1  # size = (J,)
        wanted, place = last.unique(return_inverse=True)
        filled = DynamicCache()
        self._set_preferences(jobs)
        # Padded on the right: no token looks at what comes after it, so there is nothing to mask.
        logits = self.model(
            input_ids=torch.tensor(padded, device=self.device),
            past_key_values=filled,
            use_cache=True,
            logits_to_keep=wanted,
        ).logits  # size = (J, U, V)
        logits = logits[torch.arange(len(jobs), device=self.device), place]
        chooser = Chooser([job.sampling for job in jobs], self.device)
        tokens = chooser.choose(logits)
        told, current = _told(tokens, logits), torch.cat([self.current, tokens])
        self.cache.add(filled, sizes)
        # Last, and with nothing that may fail: a batch is as it was if its memory did not suffice.
        self.jobs += jobs
        self.current = current
        return told

    def step(self) -> list[int]:
        """One more token for every row, or ``NOT_FINITE``, as ``join`` has it."""
        if self._chooser is None:
            self._set_preferences(self.jobs)
            self._chooser = Chooser([job.sampling for job in self.jobs], self.device)
        mask = self.cache.prepare()  # size = (B, T)
        logits = self.model(
            input_ids=self.current[:, None],
            # In four dimensions transformers need not build one.
            attention_mask=mask[:, None, None] if self.is_sdpa else mask.long(),
            position_ids=self.cache.lengths[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.cache.advance()
        self.current = self._chooser.choose(logits)
        return _told(self.current, logits)

    def leave(self, job: Job) -> None:
        """Free a row."""
        row = self.jobs.index(job)
        self.cache.remove(row)
        self.jobs[row] = self.jobs[-1]
        self.jobs.pop()
        self.current[row] = self.current[-1]
        self.current = self.current[:-1]
        self._changed()
