"""Safe-RLHF's preference data with one label per objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safe_rlhf.datasets import PreferenceCollator, PreferenceDataset, RawSample

from safe_rlhf_panacea.base.datasets.base import common_prefix
from safe_rlhf_panacea.base.datasets.preference import labels_of
from safe_rlhf_panacea.base.datasets.template import format_prompt
from safe_rlhf_panacea.errors import UserError


class LabelledPreferenceDataset(PreferenceDataset):
    """Safe-RLHF's ``PreferenceDataset`` on any of its raw data sets that has labels.

    ``better`` of a raw sample counts as the label of ``helpful``, ``safer`` as that of
    ``harmless``; a raw data set of the user's own may give ``labels``, a dictionary from
    objective to 0 or 1, the better answer. The better response of a pair is the one that the
    first objective with a label prefers.
    """

    def __init__(
        self,
        specs: Any,
        tokenizer: Any,
        objectives: Sequence[str] = ("helpful", "harmless"),
        seed: int | None = None,
    ) -> None:
        """Read the raw data sets and leave out what none of the objectives labels.

        ``seed`` is not used: Safe-RLHF draws proportions of data sets with one of its own.

        Raises:
            UserError: an objective labels no pair.
        """
        del seed
        self.objectives = tuple(objectives)
        super().__init__(specs, tokenizer=tokenizer)
        labels = [self._labels(sample) for sample in self.rawdata]
        for column, name in enumerate(self.objectives):
            if not any(row[column] is not None for row in labels):
                known = sorted({key for sample in self.rawdata for key in labels_of(sample)})
                raise UserError(
                    f"no pair has a label for {name!r}; labels there: {', '.join(known) or 'none'}"
                )
        kept = [i for i, row in enumerate(labels) if any(value is not None for value in row)]
        self.data = [self.data[i] for i in kept]
        self.rawdata = [self.rawdata[i] for i in kept]

    def _labels(self, sample: RawSample) -> list[int | None]:
        labels = labels_of(sample)
        return [labels.get(name) for name in self.objectives]

    def preprocess(self, raw_sample: RawSample) -> dict[str, torch.Tensor]:
        """Safe-RLHF's tokens, ``labels`` and ``prompt_length``.

        Labels are of size (m,): +1 agrees, -1 disagrees, 0 missing.
        """
        values = self._labels(raw_sample)
        first = next(value for value in values if value is not None)
        sample = super().preprocess({**raw_sample, "better": first == 0})
        signs = [0.0 if v is None else 1.0 if v == first else -1.0 for v in values]
        text = format_prompt(raw_sample["input"], eos_token=self.tokenizer.eos_token)
        prompt = self.tokenize(text)
        both = (sample["better_input_ids"], sample["worse_input_ids"])
        length = min(common_prefix(prompt.tolist(), ids.tolist()) for ids in both)
        return {**sample, "labels": torch.tensor(signs), "prompt_length": length}

    def get_collator(self) -> LabelledPreferenceCollator:
        return LabelledPreferenceCollator(self.tokenizer.pad_token_id)


class LabelledPreferenceCollator(PreferenceCollator):
    """Safe-RLHF's batch, and ``labels``, size = (B, m)."""

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        labels = torch.stack([sample["labels"] for sample in samples])
        return {**super().__call__(samples), "labels": labels}
