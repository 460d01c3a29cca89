"""Supervised text of several objectives, each of which has data sets of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from safe_rlhf_panacea.data.datasets import (
    SupervisedBatch,
    SupervisedCollator,
    SupervisedDataset,
    SupervisedSample,
)
from safe_rlhf_panacea.data.raw import RawSample, labels_for
from safe_rlhf_panacea.data.specs import DatasetSpec
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import Row
from safe_rlhf_panacea.errors import UserError

NamedSpecs = Mapping[DatasetSpec, Sequence[str]]


class ObjectiveSample(SupervisedSample):
    """One text, and which objectives it counts for."""

    labelled: torch.Tensor  # size = (m,), bool


class ObjectiveBatch(SupervisedBatch):
    """Texts, and which objectives each counts for."""

    labelled: torch.Tensor  # size = (B, m), bool


class ObjectiveTexts(SupervisedDataset):
    """Supervised text, each with the objectives that it counts for: those of its data set.

    A data set of pairs gives each of its objectives the responses that its labels prefer.
    """

    def __init__(
        self,
        named: NamedSpecs,
        tokenizer: Any,
        objectives: Sequence[str],
        seed: int = 0,
        counted: Sequence[str] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        """Read and tokenise ``named``, data sets with the objectives that each counts for.

        ``objectives`` are in the order of λ. A text has to count for one of ``counted``, by
        default for any. The other arguments are those of ``TokenizedDataset``.
        """
        self.objectives = tuple(objectives)
        self.counted = self.objectives if counted is None else tuple(counted)
        self.counts_for = [[name in names for name in objectives] for names in named.values()]
        super().__init__(list(named), tokenizer, seed=seed, template=template)

    def encode(self, rows: list[Row]) -> int:
        texts = [text for row in rows for text in self._texts(row)]
        if not texts:
            names = ", ".join(self.counted)
            raise UserError(f"{self.source}: no pair has a label for one of {names}")
        kept = super().encode([row for row, _ in texts])
        self.labelled = torch.tensor([texts[i][1] for i in self.kept])  # size = (N, m)
        return kept

    def _counts(self, counts_for: Sequence[bool]) -> bool:
        named = zip(self.objectives, counts_for, strict=True)
        return any(counts and name in self.counted for name, counts in named)

    def _texts(self, row: Row) -> Iterator[tuple[Row, list[bool]]]:
        """The texts in a row that count, each with whether it does, by objective."""
        counts_for = self.counts_for[row.data_set]
        if "other_answer" not in row.sample:
            if self._counts(counts_for):
                yield row, counts_for
            return
        labels = [labels_for(row.sample, name, where=row.where)[0] for name in self.objectives]
        for side, answer in enumerate((row.sample["answer"], row.sample["other_answer"])):
            better = [label == side for label in labels]
            counts = [a and b for a, b in zip(better, counts_for, strict=True)]
            if self._counts(counts):
                sample: RawSample = {**row.sample, "answer": answer}
                del sample["other_answer"]
                yield row._replace(sample=sample), counts

    def check_whole(self) -> None:
        """Whether every objective that counts has a text left.

        Raises:
            UserError: naming the one that has none.
        """
        there = self.labelled[self._rows].any(dim=0).tolist()
        for name, has_any in zip(self.objectives, there, strict=True):
            if name in self.counted and not has_any:
                raise UserError(f"{self.source}: no text is left for objective {name!r}")

    def get_row(self, row: int) -> ObjectiveSample:
        return {**super().get_row(row), "labelled": self.labelled[row]}

    def get_collator(self) -> ObjectiveCollator:
        return ObjectiveCollator(self.tokenizer.pad_token_id)


class ObjectiveCollator(SupervisedCollator):
    """With ``labelled``, size = (B, m): which objectives a text counts for."""

    def __call__(self, samples: list[Any]) -> ObjectiveBatch:
        labelled = torch.stack([sample["labelled"] for sample in samples])
        return {**super().__call__(samples), "labelled": labelled}
