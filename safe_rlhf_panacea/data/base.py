"""Tokenised data sets: what the three kinds of text data have in common."""

from __future__ import annotations

import abc
import copy
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.data.collator import CollatorBase
from safe_rlhf_panacea.data.control_tokens import CUT
from safe_rlhf_panacea.data.raw import (
    CHOSEN,
    RawDataset,
    RawSample,
    for_objective,
    labels_of,
    split_indices,
)
from safe_rlhf_panacea.data.specs import DatasetSpec, Specs, read_specs
from safe_rlhf_panacea.data.template import AUTO, ChatTemplate
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import say

Sample = Mapping[str, Any]
LOGGER = logging.getLogger(__name__)
ROWS_PER_CALL = 1024  # rows handed to the tokenizer at once: enough to use all its threads


class Row(NamedTuple):
    """A raw sample and where it comes from: a place for messages, and which data set of a run.

    ``kind`` is the data set's.
    """

    where: str
    sample: RawSample
    data_set: int = 0
    kind: str = ""


def select_rows(specs: list[DatasetSpec], seed: int) -> list[Row]:
    """The rows that the proportions ask for, drawn without replacement."""
    selected = []
    seeds = np.random.SeedSequence(seed).spawn(len(specs))
    for number, (spec, child) in enumerate(zip(specs, seeds, strict=True)):
        raw = spec.load()
        if len(raw) == 0:
            raise UserError(f"{spec}: no rows")
        copies, rest = divmod(spec.count(len(raw)), len(raw))
        indices = list(range(len(raw))) * copies
        generator = np.random.default_rng(child)
        indices += sorted(generator.choice(len(raw), size=rest, replace=False).tolist())
        samples = raw if spec.objective is None else for_objective(raw, spec.objective, str(spec))
        tell_format(spec, raw)
        selected += [Row(raw.where(i), samples[i], number, raw.KIND) for i in indices]
    return selected


def tell_format(spec: DatasetSpec, raw: RawDataset) -> None:
    """Say in one line what was read where columns told it, and for which objectives."""
    form = getattr(raw, "seen", "")
    if not form or not is_main_process():
        return
    names = [spec.objective] if spec.objective else sorted({n for s in raw for n in labels_of(s)})
    named = ", ".join(name for name in names if name != CHOSEN)
    what = "texts" if raw.KIND == "supervised" else raw.KIND
    for_whom = f" for {named}" if named and raw.KIND == "pairs" else ""
    say(f"{spec}: {form}, {len(raw)} {what}{for_whom}", file=sys.stderr)


def fingerprint(rows: list[Row]) -> str:
    """A hash of the rows' samples, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.sample, sort_keys=True, default=str).encode("ascii"))
        digest.update(b"\n")
    return digest.hexdigest()


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences share at their start."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(i for i in range(length) if one[i] != other[i])


@contextmanager
def refusing(row: Row) -> Iterator[None]:
    """Errors inside name the row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from None


class TokenizedDataset(Dataset[Sample]):
    """Base of the tokenised data sets; a subclass says how to encode rows and read one back.

    All rows are tokenised at once when the data set is made, and the text is let go.

    Attributes:
        template: how conversations are written.
        too_long: rows dropped because their prompt leaves no room below ``max_length``.
        spelling: rows in which somebody's words spell a control token.
        fingerprint: a hash of the raw samples, in their order; the parts of a split share it.
    """

    too_long: int
    spelling: int
    fingerprint: str

    def __init__(
        self,
        specs: Specs,
        tokenizer: Any,
        seed: int = 0,
        *,
        template: ChatTemplate | None = None,
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
        self.too_long = 0
        rows = select_rows(parsed, seed)
        self.fingerprint = fingerprint(rows)
        self.spelling = 0
        kept = self.encode(rows)
        self._rows = list(range(kept))
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
        """What makes a batch of samples."""

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
        parts = []
        for indices in split_indices(len(self), split_ratio, shuffle, seed):
            part = copy.copy(self)
            part._rows = [self._rows[index] for index in indices]
            parts.append(part)
        return parts[0], parts[1]

    # -- for subclasses ---------------------------------------------------------------

    def text(self, row: Row, field: str) -> Any:
        """A field that this kind of data set needs."""
        if field not in row.sample:
            has = ", ".join(row.sample)
            raise UserError(
                f"{row.where}: {type(self).__name__} needs {field!r}, but the row has only {has}"
            )
        fields: Mapping[str, Any] = row.sample
        return fields[field]

    def prompt(self, row: Row) -> str:
        """The row's prompt in the template."""
        turns = self.text(row, "input")
        with refusing(row):
            return self.template.prompt(turns, row.sample.get("system"))

    def rest(self, row: Row, prompt: str, field: str) -> str:
        """What follows the row's prompt, with an answer of the row."""
        answer, sample = self.text(row, field), row.sample
        with refusing(row):
            return self.template.rest(prompt, sample["input"], answer, sample.get("system"))

    def encode_texts(
        self, rows: list[Row], *fields: str
    ) -> Iterator[tuple[int, list[int], list[list[int]]]]:
        """Tokenise prompts and, field by field, prompt, answer and the answer's end.

        Rows whose prompt fills ``max_length`` are counted in ``too_long`` and left out.

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
        """Say how many rows were left out and why; with none kept it is an error.

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
