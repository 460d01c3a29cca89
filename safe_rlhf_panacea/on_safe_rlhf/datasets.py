"""Safe-RLHF's data sets with one label per objective, in any chat template."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import compress
from typing import Any

import torch
from safe_rlhf.datasets import (
    PreferenceCollator,
    PreferenceDataset,
    PromptOnlyDataset,
    RawSample,
    SupervisedDataset,
    TokenizedDataset,
)
from safe_rlhf.trainers import rl_trainer
from torch import Tensor

from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.data.datasets import common_prefix
from safe_rlhf_panacea.data.raw import labels_of
from safe_rlhf_panacea.data.template import AUTO, SAFE_RLHF, ChatTemplate, tokenize
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError

LOGGER = logging.getLogger(__name__)


def encode(
    template: ChatTemplate, sample: RawSample, *answers: str
) -> tuple[list[int], list[Tensor]]:
    """The ids of a prompt, and of the prompt with each answer, truncated, size = (L,) each."""
    turns, system = sample["input"], sample.get("system")
    prompt = template.prompt(turns, system)
    rests = [[template.rest(prompt, turns, sample[name], system)] for name in answers]
    (start,), *wholes = template.encode([prompt], *rests)
    most = template.tokenizer.model_max_length
    return start[:most], [torch.tensor(whole[:most]) for (whole,) in wholes]


class Templated(TokenizedDataset):
    """A data set of Safe-RLHF that is read in a template."""

    def __init__(self, *args: Any, template: ChatTemplate, **kwargs: Any) -> None:
        self.template = template
        super().__init__(*args, **kwargs)


class TemplatedPrompts(Templated, PromptOnlyDataset):
    """Safe-RLHF's prompts in any template."""

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        start, _ = encode(self.template, raw_sample)
        return {"input_ids": torch.tensor(start)}


class TemplatedText(Templated, SupervisedDataset):
    """Safe-RLHF's supervised text in any template."""

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        """Tokens and labels; only the answer and its end are learnt."""
        if "input" not in raw_sample and self.template.recorded == SAFE_RLHF:
            said = [self.template.said(line) for line in raw_sample["dialogue"]]
            return super().preprocess({**raw_sample, "dialogue": said})
        if "input" not in raw_sample:
            raise UserError("a dialogue without an input is read with --chat_template safe-rlhf")
        start, (input_ids,) = encode(self.template, raw_sample, "answer")
        labels = input_ids.clone()
        labels[: common_prefix(start, input_ids.tolist())] = IGNORE_INDEX
        return {"input_ids": input_ids, "labels": labels}

    def tokenize(self, text: str) -> Tensor:
        """The tokens of a dialogue, truncated, size = (L,); what is said gives no control token."""
        (ids,) = tokenize(self.tokenizer, [text])
        return torch.tensor(ids[: self.tokenizer.model_max_length])


@contextmanager
def templated(template: ChatTemplate) -> Iterator[None]:
    """Inside, Safe-RLHF's trainer of reinforcement learning makes data sets in a template."""
    names = {"PromptOnlyDataset": TemplatedPrompts, "SupervisedDataset": TemplatedText}
    before = {name: getattr(rl_trainer, name) for name in names}
    vars(rl_trainer).update({n: partial(kind, template=template) for n, kind in names.items()})
    try:
        yield
    finally:
        vars(rl_trainer).update(before)


class LabelledPreferenceDataset(PreferenceDataset):
    """Safe-RLHF's ``PreferenceDataset`` on any of its raw data sets that has labels.

    A raw sample's ``better`` is the label of ``helpful``, its ``safer`` that of ``harmless``; a
    user's own raw data set may give ``labels``, objective to 0 or 1, the better answer. The
    better response of a pair is the one that the first objective with a label prefers.
    """

    rawdata: Any

    def __init__(
        self,
        specs: Any,
        tokenizer: Any,
        objectives: Sequence[str] = ("helpful", "harmless"),
        seed: int | None = None,
        *,
        counted: Sequence[str] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        """Read and tokenise; leave out what no objective labels, and pairs of equal responses.

        Of ``counted``, where they are given, one must label a pair. ``seed`` is not used:
        Safe-RLHF draws proportions of data sets with one of its own.

        Raises:
            UserError: an objective labels no pair, or none is left.
        """
        del seed
        self.objectives = tuple(objectives)
        self.template = template or ChatTemplate.of(AUTO, tokenizer)
        super().__init__(specs, tokenizer=tokenizer)
        labels = [self._labels(sample) for sample in self.rawdata]
        for column, name in enumerate(self.objectives):
            if not any(row[column] is not None for row in labels):
                known = sorted({key for sample in self.rawdata for key in labels_of(sample)})
                raise UserError(
                    f"no pair has a label for {name!r}; labels there: {', '.join(known) or 'none'}"
                )
        needed = [i for i, name in enumerate(self.objectives) if counted is None or name in counted]
        kept = [i for i, row in enumerate(labels) if any(row[c] is not None for c in needed)]
        data = [self.preprocess(self.rawdata[i]) for i in kept]
        differ = [not torch.equal(x["better_input_ids"], x["worse_input_ids"]) for x in data]
        if not any(differ):
            raise UserError(f"all {len(data)} pairs have identical responses once truncated")
        if not all(differ) and is_main_process():
            told = f"{differ.count(False)} (responses identical once truncated)"
            LOGGER.warning("left out of %d pairs: %s", len(data), told)
        self.data = list(compress(data, differ))
        self.rawdata = [self.rawdata[i] for i in compress(kept, differ)]

    def _labels(self, sample: RawSample) -> list[int | None]:
        labels = labels_of(sample)
        return [labels.get(name) for name in self.objectives]

    def preprocess(self, raw_sample: RawSample) -> dict[str, Any]:
        """Tokens, in Safe-RLHF's template its own, ``labels`` and ``prompt_length``.

        Labels are of size (m,): +1 agrees, -1 disagrees, 0 missing.
        """
        values = self._labels(raw_sample)
        first = next(value for value in values if value is not None)
        signs = [0.0 if v is None else 1.0 if v == first else -1.0 for v in values]
        prompt, both = encode(self.template, raw_sample, "answer", "other_answer")
        return {
            "better_input_ids": both[first],
            "worse_input_ids": both[1 - first],
            "labels": torch.tensor(signs),
            "prompt_length": min(common_prefix(prompt, ids.tolist()) for ids in both),
        }

    def get_collator(self) -> LabelledPreferenceCollator:
        return LabelledPreferenceCollator(self.tokenizer.pad_token_id)


class LabelledPreferenceCollator(PreferenceCollator):
    """Safe-RLHF's batch, and ``labels``, size = (B, m)."""

    def __call__(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        labels = torch.stack([sample["labels"] for sample in samples])
        return {**super().__call__(samples), "labels": labels}
