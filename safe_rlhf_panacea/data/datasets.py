"""The tokenised data sets of supervised text, of pairs and of prompts, and their batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
import torch

from safe_rlhf_panacea.data.raw import CHOSEN, OF_ANSWERS, RawSample, labels_for, labels_of, without
from safe_rlhf_panacea.data.specs import DatasetSpec, Spec, Specs, read_specs
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import IGNORE_INDEX, CollatorBase, Row, TokenizedDataset
from safe_rlhf_panacea.errors import UserError


class TokenRows:
    """Token sequences of different lengths, size = (L,) and int64, kept in 4 bytes a token."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def append(self, ids: list[int]) -> None:
        self._rows.append(np.array(ids, dtype=np.int32))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._rows[index]).long()


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences share at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


class SupervisedSample(TypedDict):
    """One text; ``labels`` is ``IGNORE_INDEX`` on the prompt."""

    input_ids: torch.Tensor  # size = (L,)
    labels: torch.Tensor  # size = (L,)


class SupervisedBatch(TypedDict):
    """Texts, padded on the right."""

    input_ids: torch.Tensor  # size = (B, L)
    labels: torch.Tensor  # size = (B, L)
    attention_mask: torch.Tensor  # size = (B, L)


class SupervisedCollator(CollatorBase):
    """Pads on the right; padding carries no label."""

    def __call__(self, samples: list[SupervisedSample]) -> SupervisedBatch:
        input_ids, mask = self.pad([sample["input_ids"] for sample in samples])
        labels, _ = self.pad([sample["labels"] for sample in samples], value=IGNORE_INDEX)
        return {"input_ids": input_ids, "labels": labels, "attention_mask": mask}


class SupervisedDataset(TokenizedDataset):
    """Prompt and answer as one text, of which only the answer and its end are learnt."""

    COLLATOR = SupervisedCollator

    def encode(self, rows: list[Row]) -> int:
        for row in rows:
            if "other_answer" in row.sample:
                raise UserError(
                    f"{row.where}: a pair; supervised text has one response, and chosen:1:PATH "
                    "takes the better one"
                )
        self.texts = TokenRows()
        self.prompt_lengths: list[int] = []
        self.kept: list[int] = []  # the indices of the rows that were not left out
        for index, prompt, (text,) in self.encode_texts(rows, "answer"):
            self.kept.append(index)
            self.texts.append(text)
            self.prompt_lengths.append(common_prefix(prompt, text))
        self.report_left_out(len(rows), len(self.texts))
        return len(self.texts)

    def get_row(self, row: int) -> SupervisedSample:
        input_ids = self.texts[row]
        labels = input_ids.clone()
        labels[: self.prompt_lengths[row]] = IGNORE_INDEX
        return {"input_ids": input_ids, "labels": labels}


class PreferenceCollator(CollatorBase):
    """Pads better and worse responses on the right to one length, size = (B, L) each."""

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        input_ids, mask = self.pad(
            [sample["better_input_ids"] for sample in samples]
            + [sample["worse_input_ids"] for sample in samples]
        )  # size = (2B, L)
        rows = len(samples)
        return {
            "better_input_ids": input_ids[:rows],
            "better_attention_mask": mask[:rows],
            "worse_input_ids": input_ids[rows:],
            "worse_attention_mask": mask[rows:],
            "labels": torch.stack([sample["labels"] for sample in samples]),  # size = (B, m)
            "prompt_length": torch.tensor([sample["prompt_length"] for sample in samples]),
        }


class PreferenceDataset(TokenizedDataset):
    """Pairs that carry a label of at least one of the objectives that count.

    The better response of a pair is the one that the first objective with a label prefers;
    ``labels`` says which of the objectives agree with that order.

    Attributes:
        objectives: their names, in the order of ``labels``.
        counted: those of which one must label a pair.
        skipped: rows left out because none of ``counted`` labels them.
        identical: rows left out because both responses are the same once truncated.
    """

    COLLATOR = PreferenceCollator

    def __init__(
        self,
        specs: Specs,
        tokenizer: Any,
        objectives: Sequence[str] = ("helpful", "harmless"),
        seed: int = 0,
        *,
        counted: Sequence[str] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        """Read and tokenise pairs as ``TokenizedDataset``; a ``UserError`` if one has no label.

        One of the objectives must label a pair; of ``counted``, where they are given.
        """
        self.objectives = (objectives,) if isinstance(objectives, str) else tuple(objectives)
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives {self.objectives}: one or more different names are needed")
        self.counted = self.objectives if counted is None else tuple(counted)
        self.skipped = self.identical = 0
        super().__init__(specs, tokenizer, seed, template=template)

    def encode(self, rows: list[Row]) -> int:
        labelled, choices = self._labelled(rows)
        self.skipped = len(rows) - len(labelled)
        self.better = TokenRows()
        self.worse = TokenRows()
        self.prompt_lengths: list[int] = []
        labels = []
        for index, prompt, texts in self.encode_texts(labelled, "answer", "other_answer"):
            if texts[0] == texts[1]:
                self.identical += 1
                continue
            values = choices[index]
            first = next(value for value in values if value is not None)
            self.keep(labelled[index])
            self.better.append(texts[first])
            self.worse.append(texts[1 - first])
            signs = {None: 0, first: 1, 1 - first: -1}
            labels.append([signs[value] for value in values])
            self.prompt_lengths.append(min(common_prefix(prompt, text) for text in texts))
        reasons = {"responses identical once truncated": self.identical}
        if self.counted != self.objectives:
            reasons[f"no label of {', '.join(self.counted)}"] = self.skipped
        total = len(labels) + self.too_long + sum(reasons.values())
        self.report_left_out(total, len(labels), reasons)
        self.labels = torch.tensor(labels, dtype=torch.float32)  # size = (N, m)
        return len(labels)

    def keep(self, row: Row) -> None:
        """A hook for subclasses, called in order with the row of every pair that is kept."""

    def _labelled(self, rows: list[Row]) -> tuple[list[Row], list[list[int | None]]]:
        """Rows with a label that counts, and their labels in the order of the objectives."""
        labelled, choices = [], []
        found: Counter[str] = Counter()
        for row in rows:
            self.text(row, "other_answer")  # prompts or supervised text are told from pairs here
            labels = labels_of(row.sample, row.where)
            values = labels_for(row.sample, *self.objectives, where=row.where)
            labels |= zip(self.objectives, values, strict=True)
            found.update(name for name, value in labels.items() if value is not None)
            if any(labels[name] is not None for name in self.counted):
                labelled.append(row)
                choices.append(values)
        for name in self.objectives:
            if not found[name]:
                there = ", ".join(sorted(+found)) or "none"
                hint = f"; say for whom, as in {name}=PATH" if found[CHOSEN] else ""
                raise UserError(
                    f"{self.source}: no pair has a label for {name!r}; labels there: {there}{hint}"
                )
        return labelled, choices

    def get_row(self, row: int) -> dict[str, Any]:
        return {
            "better_input_ids": self.better[row],
            "worse_input_ids": self.worse[row],
            "labels": self.labels[row],  # size = (m,), +1 agrees, -1 disagrees, 0 missing
            "prompt_length": self.prompt_lengths[row],
        }


def different_rows(rows: Iterable[Row], prompt: Callable[[Row], str]) -> list[Row]:
    """The first of all rows that have the same ``prompt``, in its template, and the same columns.

    The answers and labels of pairs and of supervised text do not count as columns.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        left_out = {"input", "system"} | (set() if row.kind == "prompts" else OF_ANSWERS)
        columns = dict(sorted(without(row.sample, left_out).items()))
        first.setdefault((prompt(row), json.dumps(columns, default=str)), row)
    return list(first.values())


class PromptOnlyCollator(CollatorBase):
    """Pads prompts on the left, size = (B, L): responses follow on the right."""

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        input_ids, mask = self.pad([sample["input_ids"] for sample in samples], side="left")
        examples = [sample["example"] for sample in samples]
        return {"input_ids": input_ids, "attention_mask": mask, "examples": examples}


class PromptOnlyDataset(TokenizedDataset):
    """Prompts, each with the columns of its row; a row that repeats an earlier one is left out.

    Attributes:
        duplicates: rows left out because the same ones came before.
        examples: the prompts' raw samples.
    """

    COLLATOR = PromptOnlyCollator

    def encode(self, rows: list[Row]) -> int:
        unique = different_rows(rows, self.prompt)
        self.duplicates = len(rows) - len(unique)
        self.examples: list[RawSample] = []
        self.prompts = TokenRows()
        for index, prompt, _ in self.encode_texts(unique):
            self.examples.append(unique[index].sample)
            self.prompts.append(prompt)
        self.report_left_out(len(rows), len(self.prompts), {"came before": self.duplicates})
        return len(self.prompts)

    def get_row(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.prompts[row], "example": self.examples[row]}


def read_named_specs(
    flag: str, texts: Sequence[Spec], objectives: Sequence[str] | None = None
) -> dict[DatasetSpec, list[str]]:
    """The data sets of ``objective=name[:proportion[:path]]``, each with its objectives.

    Args:
        flag: that was given, for messages.
        texts: its values.
        objectives: those that need a data set; None: whichever are named.

    Raises:
        UserError: no objective, an unknown one or one without data, or a malformed data set.
    """
    named: dict[DatasetSpec, list[str]] = {}
    for given in texts:
        (spec,) = read_specs([given])
        name = spec.objective
        if name is None:
            raise UserError(f"{flag} {given}: name its objective, as in helpful={given}")
        names = named.setdefault(replace(spec, objective=None), [])
        if name in names:
            raise UserError(f"{flag} {given} is given twice")
        names.append(name)
    read_specs(list(named))  # none in two proportions
    if objectives is not None:
        all_names = {name for names in named.values() for name in names}
        if unknown := sorted(all_names - set(objectives)):
            raise UserError(f"{flag} names {unknown[0]!r}, which is none of --objectives")
        for name in objectives:
            if name not in all_names:
                raise UserError(f"objective {name!r} has no data set: add {name}=... to {flag}")
    return named
