"""Answers with different λ in one batch: they join, take a step together, and leave.

Row b of the key-value cache holds its sequence from column 0 on and writes its next token behind
it. So a sequence joins by one copy, leaves by one, and none is moved because another is longer. All
other columns are zero: attention multiplies masked columns with 0, which a NaN that somebody left
would survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.ways import by_loop, fits
from safe_rlhf_panacea.serving.jobs import Chooser, Job

ATTENTION = {"full_attention", "sliding_attention"}
WINDOWS = ("sliding_window", "window_size")  # the latter is GPT-Neo's
NOT_FINITE = -1  # in the place of a token, where there is none to be drawn
BLOCK = 128  # columns of the cache are allocated in such steps
LONGEST = 4096  # tokens of a sequence, unless asked for more


def check_model(model: Any, max_length: int) -> None:
    """Refuse, with a ``UserError``, a model whose sequences cannot share a batch here.

    It keeps a state that is no key-value cache, it needs prompts without padding, or its window is
    shorter than the sequences.
    """
    config, name = model.config.get_text_config(), type(model).__name__
    kinds = set(getattr(config, "layer_types", None) or ATTENTION)
    if getattr(model, "_is_stateful", False) or not kinds <= ATTENTION:
        raise UserError(f"a {name} cannot be served: not all its layers attend")
    if not fits(model, by_loop):
        raise UserError(f"a {name} cannot be served: rows of a batch would change its answers")
    window = min(getattr(config, name, None) or max_length for name in WINDOWS)
    if max_length > window:
        raise UserError(
            f"--max_length is {max_length}, and the model attends to {window} tokens: "
            "longer sequences cannot be served"
        )


def longest(model: Any, asked: int | None = None) -> int:
    """The longest sequence that is served, in tokens: ``asked``, or what the model allows.

    Raises:
        UserError: ``asked`` is more than the model's positions.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if asked is not None and asked > positions:
        raise UserError(f"--max_length is {asked}, and the model has {positions} positions")
    return asked or min(positions, getattr(config, "sliding_window", None) or LONGEST, LONGEST)


class SlotLayer(DynamicLayer):
    """One layer's keys and values: two buffers, size = (rows, heads, columns, head_dim) each."""

    def __init__(self, cache: SlotCache, like: list[torch.Tensor]) -> None:
        super().__init__()
        self.cache = cache
        self.buffers = [one.new_zeros(0, one.size(1), 0, one.size(3)) for one in like]
        self.dtype, self.device = like[0].dtype, like[0].device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token per row, size = (B, heads, 1, head_dim); returns all that is read."""
        count, read = len(self.cache), []
        rows = torch.arange(count, device=key_states.device)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[rows, :, self.cache.lengths] = states[:, :, 0]
            read.append(buffer[:count, :, : self.cache.width])
        self.keys, self.values = read
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns before the one that a step adds."""
        return self.cache.width - 1


class SlotCache(DynamicCache):
    """The cache of a batch whose sequences differ in length; memory is taken as it is needed."""

    def __init__(self, max_rows: int, max_length: int) -> None:
        super().__init__()
        self.max_rows, self.max_length = max_rows, max_length
        self.slots: list[SlotLayer] = []
        self._count([])

    def _count(self, sizes: list[int], device: torch.device | None = None) -> None:
        self.sizes = sizes  # tokens of each sequence
        self.lengths = torch.tensor(sizes, dtype=torch.long, device=device)  # size = (B,)
        self.width = max(sizes, default=0) + 1  # columns that the next step reads

    def __len__(self) -> int:
        return len(self.sizes)

    def _reserve(self, rows: int, columns: int) -> None:
        """Room for so many sequences of so many tokens; what is there stays."""
        rows = min(rows, self.max_rows)
        columns = min(-(-columns // BLOCK) * BLOCK, self.max_length)
        for layer in self.slots:
            there = layer.buffers[0].shape
            more = max(0, rows - there[0]), max(0, columns - there[2])
            if any(more):  # all or none: there may be no memory for them
                by = (0, 0, 0, more[1], 0, 0, 0, more[0])
                layer.buffers = [pad(buffer, by) for buffer in layer.buffers]

    def add(self, filled: DynamicCache, sizes: list[int]) -> None:
        """Take in sequences that another cache holds from column 0 on, padded on the right."""
        layers: list[Any] = list(filled.layers)  # other kinds are refused before
        states: list[list[torch.Tensor]] = [[layer.keys, layer.values] for layer in layers]
        if not self.slots:
            self.slots = [SlotLayer(self, pair) for pair in states]
            self.layers = list(self.slots)
        before, width, device = len(self), max(sizes), states[0][0].device
        ends = torch.tensor(sizes, device=device)[:, None]
        padding = (torch.arange(width, device=device) >= ends)[:, None, :, None]  # (J, 1, width, 1)
        # Twice the rows that were there: seldom, then, are they copied.
        self._reserve(max(before + len(sizes), 2 * before), max(width, self.width) + 1)
        for layer, pair in zip(self.slots, states, strict=True):
            for buffer, new in zip(layer.buffers, pair, strict=True):
                kept = new[:, :, :width].masked_fill(padding, 0)
                buffer[before : before + len(sizes), :, :width] = kept
        self._count(self.sizes + sizes, device)

    def prepare(self) -> torch.Tensor:
        """Make room for a token per row; returns where each may look, bool, size = (B, width)."""
        self._reserve(len(self), self.width)
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
        self._count(self.sizes[:-1], self.lengths.device)


class Batch:
    """The rows of a model that answer at the moment; ``jobs`` has one for each.

    A row's λ and random numbers are its own, so that its answer does not depend on the others
    (up to the rounding of sums, which may differ with the number of rows).
    """

    def __init__(
        self, model: Any, adapter: PanaceaAdapter, pad_id: int, max_rows: int, max_length: int
    ) -> None:
        self.model, self.adapter, self.pad_id = model, adapter, pad_id
        self.max_rows, self.max_length = max_rows, max_length
        self.device = next(model.parameters()).device
        self.is_sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self.clear()

    def clear(self) -> None:
        """Drop all rows and the memory that they took."""
        self.jobs: list[Job] = []
        self.cache = SlotCache(self.max_rows, self.max_length)
        self.current = torch.empty(0, dtype=torch.long, device=self.device)  # size = (B,)
        self._chooser: Chooser | None = None  # for the rows as they are; None: they have changed

    def _begin(self, jobs: Sequence[Job]) -> Chooser:
        """Set λ of the rows of the next pass; returns what draws their tokens."""
        if self.adapter.pref_dim:
            self.adapter.set_preference(torch.stack([job.preference for job in jobs]))
        return Chooser([job.sampling for job in jobs], self.device)

    def join(self, jobs: Sequence[Job]) -> list[int]:
        """Read the prompts of new rows, all at once; returns the first token of each.

        A token is ``NOT_FINITE`` where the model's logits are not finite: that row has to leave.
        """
        self._chooser = None
        sizes = [len(job.prompt) for job in jobs]
        width = max(sizes)
        padded = [job.prompt + [self.pad_id] * (width - len(job.prompt)) for job in jobs]
        last = torch.tensor(sizes, device=self.device) - 1  # size = (J,)
        wanted, place = last.unique(return_inverse=True)
        filled, chooser = DynamicCache(), self._begin(jobs)
        # Padded on the right: no token looks at what comes after it, so there is nothing to mask.
        logits = self.model(
            input_ids=torch.tensor(padded, device=self.device),
            past_key_values=filled,
            use_cache=True,
            logits_to_keep=wanted,
        ).logits  # size = (J, U, V)
        logits = logits[torch.arange(len(jobs), device=self.device), place]  # size = (J, V)
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
            self._chooser = self._begin(self.jobs)
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
        """Free a row; the last one takes its place."""
        row = self.jobs.index(job)
        self.cache.remove(row)
        self.jobs[row] = self.jobs[-1]
        self.jobs.pop()
        self.current[row] = self.current[-1]
        self.current = self.current[:-1]
        self._chooser = None


def _told(tokens: torch.Tensor, logits: torch.Tensor) -> list[int]:
    """Tokens, size = (B,), of logits, size = (B, V); ``NOT_FINITE`` where these are not."""
    # The largest: single logits may be -inf, where a model rules a token out.
    return torch.where(logits.amax(dim=-1).isfinite(), tokens, NOT_FINITE).tolist()
