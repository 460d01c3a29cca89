"""The tokenised data sets of supervised text, of pairs and of prompts, and their batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.data.raw import CHOSEN, OF_ANSWERS, LeaveOut, labels_for, labels_of, without
from safe_rlhf_panacea.data.specs import DatasetSpec, Spec, Specs, read_specs
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import (
    IGNORE_INDEX,
    Row,
    Sample,
    TokenizedDataset,
    packed,
    pad,
)
from safe_rlhf_panacea.errors import UserError


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences share at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


class SupervisedDataset(TokenizedDataset):
    """Prompt and answer as one text, of which only the answer and its end are learnt.

    A sample has ``input_ids`` and ``labels``, size = (L,) each, ``IGNORE_INDEX`` on the prompt.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("answer",)

    def encode(self, rows: list[Row]) -> None:
        for row in rows:
            if "other_answer" in row.sample:
                raise UserError(
                    f"{row.where}: a pair; supervised text has one response, and chosen:1:PATH "
                    "takes the better one"
                )
        super().encode(rows)

    def make(self, row: Row, prompt: list[int], *texts: list[int]) -> Sample:
        labels = list(texts[0])
        learnt_from = common_prefix(prompt, labels)
        labels[:learnt_from] = [IGNORE_INDEX] * learnt_from
        return {"input_ids": packed(texts[0]), "labels": packed(labels)}

    @staticmethod
    def collate(samples: list[Any], pad_token_id: int) -> Sample:
        """Texts padded on the right, their labels, and mask, size = (B, L) each."""
        input_ids, mask = pad([sample["input_ids"] for sample in samples], pad_token_id)
        labels, _ = pad([sample["labels"] for sample in samples], IGNORE_INDEX)
        return {"input_ids": input_ids, "labels": labels, "attention_mask": mask}


class PreferenceDataset(TokenizedDataset):
    """Pairs that carry a label of at least one of the objectives that count.

    The better response of a pair is the one that the first objective with a label prefers; the
    ``labels`` of a sample, size = (m,), are +1 where an objective agrees, -1 where it disagrees,
    and 0 where it has no label. ``better_input_ids`` and ``worse_input_ids`` begin with the same
    ``prompt_length`` tokens.

    Attributes:
        objectives: their names, in the order of ``labels``.
        counted: those of which one must label a pair.
        labels: those of all pairs, size = (N, m).
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("answer", "other_answer")

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
        """Read and tokenise pairs as ``TokenizedDataset``.

        One of the objectives must label a pair; of ``counted``, where they are given. A
        ``UserError`` names an objective that labels no pair at all.
        """
        self.objectives = (objectives,) if isinstance(objectives, str) else tuple(objectives)
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives {self.objectives}: one or more different names are needed")
        self.counted = self.objectives if counted is None else tuple(counted)
        super().__init__(specs, tokenizer, seed, template=template)

    def encode(self, rows: list[Row]) -> None:
        labelled = []
        found: Counter[str] = Counter()
        for row in rows:
            values = labels_for(row.sample, *self.objectives, where=row.where)
            labels = labels_of(row.sample, row.where)
            labels |= zip(self.objectives, values, strict=True)
            found.update(name for name, value in labels.items() if value is not None)
            if any(labels[name] is not None for name in self.counted):
                labelled.append(row._replace(labels=values))
            elif self.counted != self.objectives:
                self.left_out[f"no label of {', '.join(self.counted)}"] += 1
        for name in self.objectives:
            if not found[name]:
                there = ", ".join(sorted(found)) or "none"
                hint = f"; say for whom, as in {name}=PATH" if found[CHOSEN] else ""
                raise UserError(
                    f"{self.source}: no pair has a label for {name!r}; labels there: {there}{hint}"
                )
        super().encode(labelled)
        self.labels = torch.tensor([sample.pop("labels") for sample in self._samples])

    def make(self, row: Row, prompt: list[int], *texts: list[int]) -> Sample:
        if texts[0] == texts[1]:
            raise LeaveOut("responses identical once truncated")
        first = next(value for value in row.labels if value is not None)
        signs = {None: 0.0, first: 1.0, 1 - first: -1.0}
        return {
            "better_input_ids": packed(texts[first]),
            "worse_input_ids": packed(texts[1 - first]),
            "labels": [signs[value] for value in row.labels],
            "prompt_length": min(common_prefix(prompt, text) for text in texts),
        }

    def __getitem__(self, index: int) -> Sample:
        return {**super().__getitem__(index), "labels": self.labels[self._rows[index]]}

    @staticmethod
    def collate(samples: list[Any], pad_token_id: int) -> Sample:
        """Both responses padded on the right to one length, size = (B, L) each, and labels."""
        sides = ("better", "worse")
        ids = [sample[f"{side}_input_ids"] for side in sides for sample in samples]
        input_ids, mask = pad(ids, pad_token_id)  # size = (2B, L)
        rows = len(samples)
        return {
            "better_input_ids": input_ids[:rows],
            "better_attention_mask": mask[:rows],
            "worse_input_ids": input_ids[rows:],
            "worse_attention_mask": mask[rows:],
            "labels": torch.stack([sample["labels"] for sample in samples]),  # size = (B, m)
            "prompt_length": torch.tensor([sample["prompt_length"] for sample in samples]),
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


class PromptOnlyDataset(TokenizedDataset):
    """Prompts, ``input_ids``, size = (L,); a row that repeats an earlier one is left out.

    ``example`` of a sample is its raw sample, with all columns; ``examples`` has those of all.
    """

    def encode(self, rows: list[Row]) -> None:
        unique = different_rows(rows, self.prompt)
        if len(unique) < len(rows):
            self.left_out["came before"] = len(rows) - len(unique)
        super().encode(unique)
        self.examples = [sample["example"] for sample in self._samples]

    def make(self, row: Row, prompt: list[int], *texts: list[int]) -> Sample:
        del texts
        return {"input_ids": packed(prompt), "example": row.sample}

    @staticmethod
    def collate(samples: list[Any], pad_token_id: int) -> Sample:
        """Prompts padded on the left, since responses follow, and mask, size = (B, L) each."""
        ids, mask = pad([sample["input_ids"] for sample in samples], pad_token_id, "left")
        examples = [sample["example"] for sample in samples]
        return {"input_ids": ids, "attention_mask": mask, "examples": examples}


def read_named_specs(
    flag: str, texts: Sequence[Spec], objectives: Sequence[str] | None = None
) -> dict[DatasetSpec, list[str]]:
    """The data sets of ``objective=name[:proportion[:path]]``, each with its objectives.

    ``flag`` is what gave ``texts``, for messages; ``objectives`` are those that need a data set,
    None: whichever are named. A ``UserError`` tells of one that is missing, unknown or without
    data, and of a malformed data set.
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
