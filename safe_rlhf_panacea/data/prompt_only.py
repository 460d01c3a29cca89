"""Prompts without answers, for which a policy generates responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import torch

from safe_rlhf_panacea.data.raw import OF_ANSWERS, RawSample, without
from safe_rlhf_panacea.data.specs import Row, Specs
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import CollatorBase, TokenizedDataset, TokenRows
from safe_rlhf_panacea.errors import UserError

PROMPTS = "prompts"  # the kind of data set whose columns all belong to the prompt


class PromptOnlySample(TypedDict):
    """The tokens of one prompt, and the raw sample that they are from."""

    input_ids: torch.Tensor  # size = (L,)
    example: RawSample


class PromptOnlyBatch(TypedDict):
    """Prompts, padded on the left."""

    input_ids: torch.Tensor  # size = (B, L)
    attention_mask: torch.Tensor  # size = (B, L)
    examples: list[RawSample]  # the rows' raw samples


def different_rows(rows: Iterable[Row], prompt: Callable[[Row], str]) -> list[Row]:
    """The first of all rows that have the same prompt and the same columns.

    The answers and labels of pairs and of supervised text do not count as columns.

    Args:
        rows: of any kind of data set.
        prompt: makes a row's prompt in the template.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        left_out = {"input", "system"} | (set() if row.kind == PROMPTS else OF_ANSWERS)
        columns = dict(sorted(without(row.sample, left_out).items()))
        first.setdefault((prompt(row), json.dumps(columns, default=str)), row)
    return list(first.values())


class PromptOnlyDataset(TokenizedDataset):
    """Prompts, each with the columns of its row; a row that repeats an earlier one is left out.

    Attributes:
        too_long: prompts left out because they leave no room below ``max_length``.
        duplicates: rows left out because the same ones came before.
        examples: the prompts' raw samples.
    """

    def __init__(
        self,
        specs: Specs,
        tokenizer: Any,
        seed: int = 0,
        *,
        template: ChatTemplate | None = None,
        strict: bool = False,
    ) -> None:
        """Read and tokenise prompts; the other arguments are ``TokenizedDataset``'s.

        With ``strict`` a prompt as long as ``max_length`` is a ``UserError``, not left out.
        """
        self.strict = strict
        super().__init__(specs, tokenizer, seed, template=template)

    def encode(self, rows: list[Row]) -> int:
        unique = different_rows(rows, self.prompt)
        self.duplicates = len(rows) - len(unique)
        self.examples: list[RawSample] = []
        self.prompts = TokenRows()
        for index, prompt, _ in self.encode_texts(unique):
            self.examples.append(unique[index].sample)
            self.prompts.append(prompt)
        self.report_left_out(len(rows), len(self.prompts), came_before=self.duplicates)
        return len(self.prompts)

    def reject(self, row: Row, tokens: int) -> None:
        if self.strict:
            raise UserError(
                f"{row.where}: the prompt of {tokens} tokens is as long as max_length "
                f"{self.max_length}; raise max_length or shorten the prompt"
            )
        super().reject(row, tokens)

    def get_row(self, row: int) -> PromptOnlySample:
        return {"input_ids": self.prompts[row], "example": self.examples[row]}

    def get_collator(self) -> PromptOnlyCollator:
        return PromptOnlyCollator(self.tokenizer.pad_token_id)


class PromptOnlyCollator(CollatorBase):
    """Pads prompts on the left: responses follow on the right."""

    def __call__(self, samples: list[PromptOnlySample]) -> PromptOnlyBatch:
        input_ids, mask = self.pad([sample["input_ids"] for sample in samples], side="left")
        examples = [sample["example"] for sample in samples]
        return {"input_ids": input_ids, "attention_mask": mask, "examples": examples}
