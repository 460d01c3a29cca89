"""Pairs of responses, labelled by several objectives at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypedDict

import torch

from safe_rlhf_panacea.data.raw import CHOSEN, labels_for, labels_of
from safe_rlhf_panacea.data.specs import Row, Specs
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import (
    CollatorBase,
    TokenizedDataset,
    TokenRows,
    common_prefix,
)
from safe_rlhf_panacea.errors import UserError


class PreferenceSample(TypedDict):
    """The better and the worse response to one prompt, each with the prompt before it."""

    better_input_ids: torch.Tensor  # size = (L,)
    worse_input_ids: torch.Tensor  # size = (L',)
    labels: torch.Tensor  # size = (m,), +1 agrees with the order, -1 disagrees, 0 missing
    prompt_length: int


class PreferenceBatch(TypedDict):
    """Pairs, padded on the right to one common length."""

    better_input_ids: torch.Tensor  # size = (B, L)
    better_attention_mask: torch.Tensor  # size = (B, L)
    worse_input_ids: torch.Tensor  # size = (B, L)
    worse_attention_mask: torch.Tensor  # size = (B, L)
    labels: torch.Tensor  # size = (B, m)
    prompt_length: torch.Tensor  # size = (B,)


class PreferenceDataset(TokenizedDataset):
    """Pairs that carry a label of at least one of the objectives that count.

    The better response of a pair is the one that the first objective with a label prefers;
    ``labels`` says which of the objectives agree with that order.

    Attributes:
        objectives: their names, in the order of ``labels``.
        counted: those of which one must label a pair.
        skipped: rows left out because none of ``counted`` labels them.
        too_long: rows left out because their prompt leaves no room below ``max_length``.
        identical: rows left out because both responses are the same once truncated.
    """

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
        """Read and tokenise pairs; the other arguments are ``TokenizedDataset``'s.

        One of the objectives must label a pair; of ``counted``, where they are given.

        Raises:
            UserError: as ``TokenizedDataset``, and for an objective that labels no pair.
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
            labels.append([0 if v is None else 1 if v == first else -1 for v in values])
            self.prompt_lengths.append(min(common_prefix(prompt, text) for text in texts))
        reasons = {"responses identical once truncated": self.identical}
        if self.counted != self.objectives:
            reasons[f"no label of {', '.join(self.counted)}"] = self.skipped
        total = len(labels) + self.too_long + sum(reasons.values())
        self.report_left_out(total, len(labels), **reasons)
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

    def get_row(self, row: int) -> PreferenceSample:
        return {
            "better_input_ids": self.better[row],
            "worse_input_ids": self.worse[row],
            "labels": self.labels[row],
            "prompt_length": self.prompt_lengths[row],
        }

    def get_collator(self) -> PreferenceCollator:
        return PreferenceCollator(self.tokenizer.pad_token_id)


class PreferenceCollator(CollatorBase):
    """Pads better and worse responses to the same length, so that they can be stacked."""

    def __call__(self, samples: list[PreferenceSample]) -> PreferenceBatch:
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
            "labels": torch.stack([sample["labels"] for sample in samples]),
            "prompt_length": torch.tensor([sample["prompt_length"] for sample in samples]),
        }
