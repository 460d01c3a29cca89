"""Tokenised data sets and their batches: what the three kinds of text data have in common."""

from __future__ import annotations

import abc
import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from safe_rlhf_panacea.data.control_tokens import CUT
from safe_rlhf_panacea.data.raw import split_indices
from safe_rlhf_panacea.data.specs import Row, Specs, read_specs, select_rows
from safe_rlhf_panacea.data.template import AUTO, ChatTemplate
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError

Sample = Mapping[str, Any]
LOGGER = logging.getLogger(__name__)
IGNORE_INDEX = -100  # a label that no loss counts
ROWS_PER_CALL = 1024  # rows given to the tokenizer at once: enough to use all its threads


def fingerprint(rows: list[Row]) -> str:
    """A hash of the rows' samples, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.sample, sort_keys=True, default=str).encode("ascii"))
        digest.update(b"\n")
    return digest.hexdigest()


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences share at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


@contextmanager
def refusing(row: Row) -> Iterator[None]:
    """Errors that are raised inside begin with the place of the row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from None


class TokenRows:
    """Token sequences of different lengths, which take 4 bytes a token."""

    def __init__(self) -> None:
        """Begin without sequences."""
        self._rows: list[np.ndarray] = []

    def append(self, ids: list[int]) -> None:
        """Keep one more sequence."""
        self._rows.append(np.array(ids, dtype=np.int32))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One sequence, size = (L,), int64."""
        return torch.from_numpy(self._rows[index]).long()


class CollatorBase(metaclass=abc.ABCMeta):
    """Makes a batch of samples."""

    def __init__(self, pad_token_id: int) -> None:
        """Pad with this id; masks come from lengths, so it may equal any other id."""
        self.pad_token_id = pad_token_id

    @abc.abstractmethod
    def __call__(self, samples: list[Any]) -> Mapping[str, Any]:
        """Make a batch of some samples."""

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


class TokenizedDataset(Dataset[Sample]):
    """Base of the tokenised data sets; a subclass says how to encode rows and read one back.

    All rows are tokenised when the data set is made; their text is not kept.

    Attributes:
        template: how conversations are written.
        too_long: rows dropped because their prompt leaves no room below ``max_length``.
        spelling: rows in which the text of a user or of an answer spells a control token.
        fingerprint: a hash of the raw samples, in their order; the parts of a split share it.
    """

    def __init__(
        self, specs: Specs, tokenizer: Any, seed: int = 0, *, template: ChatTemplate | None = None
    ) -> None:
        """Read, check and tokenise.

        Args:
            specs: data sets as ``name[:proportion[:path]]`` or (name, attributes) pairs.
            tokenizer: its ``model_max_length`` bounds every sequence.
            seed: of the random subset where a proportion asks for one.
            template: default: ``auto``.

        Raises:
            UserError: unknown or unreadable data, a conversation that the template refuses, or
                nothing left to use.
        """
        for role in ("eos", "pad"):
            if getattr(tokenizer, f"{role}_token_id") is None:
                raise UserError(f"the tokenizer has no {role} token; give it one before the data")
        self.tokenizer = tokenizer
        self.template = template or ChatTemplate.of(AUTO, tokenizer)
        self.max_length: int = tokenizer.model_max_length
        self.seed = seed
        parsed = read_specs(specs)
        self.source = ", ".join(map(str, parsed))
        self.too_long = self.spelling = 0
        rows = select_rows(parsed, seed)
        self.fingerprint = fingerprint(rows)
        self._rows = list(range(self.encode(rows)))
        if self.spelling and is_main_process():
            LOGGER.warning(
                "%s: %d of %d rows spell control tokens, which are read as text "
                "(--chat_template raw reads tokens)",
                *(self.source, self.spelling, len(rows)),
            )

    @abc.abstractmethod
    def encode(self, rows: list[Row]) -> int:
        """Tokenise the rows, store what ``get_row`` needs, and return how many are left."""

    @abc.abstractmethod
    def get_row(self, row: int) -> Sample:
        """The sample in a stored row."""

    @abc.abstractmethod
    def get_collator(self) -> CollatorBase:
        """The collator for samples of this data set."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self.get_row(self._rows[index])

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int | None = None
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Two data sets over the same tokens that share no sample.

        Raises:
            UserError: one of the two would be empty.
        """
        seed = self.seed if seed is None else seed
        train, test = copy.copy(self), copy.copy(self)
        rows = split_indices(len(self), split_ratio, shuffle, seed)
        train._rows, test._rows = ([self._rows[index] for index in part] for part in rows)
        return train, test

    # -- for subclasses ---------------------------------------------------------------

    def text(self, row: Row, field: str) -> Any:
        """A field of the row; ``UserError`` if it is missing."""
        fields: Mapping[str, Any] = row.sample
        if field not in fields:
            raise UserError(
                f"{row.where}: {type(self).__name__} needs {field!r}, but the row has only "
                f"{', '.join(fields)}"
            )
        return fields[field]

    def prompt(self, row: Row) -> str:
        """The row's prompt in the template."""
        turns = self.text(row, "input")
        with refusing(row):
            return self.template.prompt(turns, row.sample.get("system"))

    def rest(self, row: Row, prompt: str, field: str) -> str:
        """The text after the row's prompt: an answer of the row, and its end."""
        answer, sample = self.text(row, field), row.sample
        with refusing(row):
            return self.template.rest(prompt, sample["input"], answer, sample.get("system"))

    def encode_texts(
        self, rows: list[Row], *fields: str
    ) -> Iterator[tuple[int, list[int], list[list[int]]]]:
        """Tokenise prompts and, field by field, prompt, answer and the answer's end.

        Rows whose prompt fills ``max_length`` are given to ``reject`` and left out.

        Yields:
            The index of the row, the ids of its prompt, and the ids of each full text, truncated.
        """
        for start in range(0, len(rows), ROWS_PER_CALL):
            chunk = rows[start : start + ROWS_PER_CALL]
            prompts = [self.prompt(row) for row in chunk]
            both = list(zip(chunk, prompts, strict=True))
            rests = [[self.rest(row, prompt, field) for row, prompt in both] for field in fields]
            texts = map("".join, zip(prompts, *rests, strict=True))
            self.spelling += sum(CUT in text for text in texts)
            columns = zip(*self.template.encode(prompts, *rests), strict=True)
            for index, (row, (ids, *full)) in enumerate(zip(chunk, columns, strict=True)):
                if len(ids) >= self.max_length:
                    self.reject(row, len(ids))
                    continue
                yield start + index, ids, [sequence[: self.max_length] for sequence in full]

    def reject(self, row: Row, tokens: int) -> None:
        """Count a row whose prompt has as many ``tokens`` as a whole sequence may have."""
        del row, tokens
        self.too_long += 1

    def report_left_out(self, total: int, kept: int, **reasons: int) -> None:
        """Warn of the rows that were left out, with the reasons; none left is a ``UserError``.

        Args:
            total: rows that were tokenised.
            kept: rows that are left.
            reasons: further counts besides ``too_long``, by what such rows are.
        """
        counts = {f"prompt of max_length {self.max_length} tokens or more": self.too_long}
        counts |= {reason.replace("_", " "): count for reason, count in reasons.items()}
        told = ", ".join(f"{count} ({reason})" for reason, count in counts.items() if count)
        if kept == 0:
            raise UserError(
                f"{self.source}: nothing left of {total} rows: {told}; "
                "raise max_length or shorten the prompts"
            )
        if told and is_main_process():
            LOGGER.warning("%s: left out of %d rows: %s", self.source, total, told)
