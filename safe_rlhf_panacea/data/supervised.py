"""Supervised text: prompts with the answers that a model learns to write."""

from __future__ import annotations

from typing import TypedDict

import torch

from safe_rlhf_panacea.data.specs import Row
from safe_rlhf_panacea.data.tokenized import (
    IGNORE_INDEX,
    CollatorBase,
    TokenizedDataset,
    TokenRows,
    common_prefix,
)
from safe_rlhf_panacea.errors import UserError


class SupervisedSample(TypedDict):
    """One text; ``labels`` is ``IGNORE_INDEX`` on the prompt."""

    input_ids: torch.Tensor  # size = (L,)
    labels: torch.Tensor  # size = (L,)


class SupervisedBatch(TypedDict):
    """Texts, padded on the right."""

    input_ids: torch.Tensor  # size = (B, L)
    labels: torch.Tensor  # size = (B, L)
    attention_mask: torch.Tensor  # size = (B, L)


class SupervisedDataset(TokenizedDataset):
    """Prompt and answer as one text, of which only the answer and its end are learnt."""

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

    def get_collator(self) -> SupervisedCollator:
        return SupervisedCollator(self.tokenizer.pad_token_id)


class SupervisedCollator(CollatorBase):
    """Pads on the right; padding carries no label."""

    def __call__(self, samples: list[SupervisedSample]) -> SupervisedBatch:
        input_ids, mask = self.pad([sample["input_ids"] for sample in samples])
        labels, _ = self.pad([sample["labels"] for sample in samples], value=IGNORE_INDEX)
        return {"input_ids": input_ids, "labels": labels, "attention_mask": mask}
