"""How often published score models agree with people, on a published test split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from safe_rlhf_panacea.base.datasets import RawSample
from safe_rlhf_panacea.base.datasets.collator import CollatorBase
from safe_rlhf_panacea.base.datasets.control_tokens import tokenize
from safe_rlhf_panacea.base.datasets.safe_rlhf_template import SafeRlhfTemplate
from safe_rlhf_panacea.base.progress import progress_bar
from safe_rlhf_panacea.regression.checks import Check
from safe_rlhf_panacea.regression.suites import Options

# Whose label ranks the pair, and the sign with which the score says so.
RANKED_BY = {"reward": ("helpful", 1.0), "cost": ("harmless", -1.0)}
ANSWERS = ("answer", "other_answer")


def full_text(sample: RawSample, answer: str, template: SafeRlhfTemplate) -> str:
    """What a score model was trained on: prompt, answer, end token."""
    turns, text = sample["input"], sample[answer]  # type: ignore[literal-required]
    prompt = template.prompt(turns)
    return prompt + template.rest(prompt, turns, text)


class Padding(CollatorBase):
    """Pads token ids on the right."""

    def __call__(self, samples: list[Any]) -> dict[str, torch.Tensor]:
        ids, mask = self.pad(samples)
        return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def score_texts(model: Any, tokenizer: Any, texts: Sequence[str], options: Options) -> torch.Tensor:
    """End scores, size = (N,); texts are cut off at the tokenizer's maximal length."""
    rows = [row[: tokenizer.model_max_length] for row in tokenize(tokenizer, texts)]
    # Of like length side by side; the longest first, so that too little memory shows at once.
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    scores, collate = torch.empty(len(rows)), Padding(tokenizer.pad_token_id)
    bar = progress_bar(total=len(rows), desc="Scoring", disable=not options.progress)
    for start in range(0, len(rows), options.batch_size):
        batch = order[start : start + options.batch_size]
        padded = collate([torch.tensor(rows[index]) for index in batch])
        ends = model(**{name: x.to(model.device) for name, x in padded.items()}).end_scores
        scores[batch] = ends.squeeze(-1).float().cpu()
        bar.update(len(batch))
    bar.close()
    return scores


def accuracy_checks(
    name: str,
    reference: Mapping[str, Any],
    model: Any,
    tokenizer: Any,
    pairs: Sequence[RawSample],
    options: Options,
) -> Iterator[Check]:
    """Compare accuracies in percent with the reported ones.

    ``ranking``: pairs of which the model scores the better answer higher (a cost model: the safer
    one lower). ``safety``: answers of which a cost above 0 says unsafe, as people did.
    """
    values, tolerances = reference["values"], reference["tolerances"]
    template = SafeRlhfTemplate(tokenizer)
    texts = [full_text(pair, answer, template) for pair in pairs for answer in ANSWERS]
    scores = score_texts(model, tokenizer, texts, options).view(-1, 2)  # size = (N, 2)
    measured = {"ranking": ranking(pairs, scores, values["role"]), "safety": safety(pairs, scores)}
    for what, expected in values["accuracy"].items():
        right, count = measured[what]
        share = right / count
        tolerance = tolerances["accuracy"] + sampling_error(share, count)
        yield Check(name, f"{what} accuracy, % of {count}", expected, 100 * share, tolerance)


def sampling_error(share: float, count: int) -> float:
    """Three standard errors of a share, in percentage points."""
    return 300 * math.sqrt(share * (1 - share) / count)


def ranking(pairs: Sequence[RawSample], scores: torch.Tensor, role: str) -> tuple[int, int]:
    """How many pairs are ranked as people did, of how many that they ranked."""
    objective, sign = RANKED_BY[role]
    labels = [pair["labels"][objective] for pair in pairs]
    first = (sign * (scores[:, 0] - scores[:, 1])).tolist()
    right = [d > 0 if label == 0 else d < 0 for d, label in zip(first, labels, strict=True)]
    known = [label is not None for label in labels]
    return sum(r and k for r, k in zip(right, known, strict=True)), max(1, sum(known))


def safety(pairs: Sequence[RawSample], scores: torch.Tensor) -> tuple[int, int]:
    """How many answers' signs of the cost say what people did, of how many."""
    safe = torch.tensor([pair["safe"] for pair in pairs])  # type: ignore[typeddict-item]
    return int(((scores <= 0) == safe).sum()), safe.numel()
