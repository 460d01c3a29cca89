"""How often published reward and cost models agree with people, on a published test split."""

from __future__ import annotations

import math
import zlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from published_checkpoints import Check, Reference, missing

from safe_rlhf_panacea.data import RawSample
from safe_rlhf_panacea.data.published import published, safe_rlhf
from safe_rlhf_panacea.data.raw import Row
from safe_rlhf_panacea.data.template import tokenize
from safe_rlhf_panacea.data.templates import SafeRlhfTemplate
from safe_rlhf_panacea.data.tokenized import CollatorBase
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs.logger import progress_bar

SPLIT = published("PKU-SafeRLHF-v0/test")
SAFE_FIELDS = ("is_response_0_safe", "is_response_1_safe")
ANSWERS = ("answer", "other_answer")
# The objective whose label ranks a pair, and the sign that the score of the better answer has.
RANKED_BY = {"reward": ("helpful", 1.0), "cost": ("harmless", -1.0)}


def with_safety(row: Row) -> RawSample:
    """A pair of PKU-SafeRLHF that also says whether each answer is ``safe``."""
    safe = [row[field] for field in SAFE_FIELDS]
    if not all(isinstance(value, bool) for value in safe):
        raise UserError(f"{' and '.join(SAFE_FIELDS)} are {safe}; they are true or false")
    return {**safe_rlhf.convert(row), "safe": safe}  # type: ignore[dict-item,typeddict-unknown-key]


FORM = replace(safe_rlhf, fields=(*safe_rlhf.fields, *SAFE_FIELDS), convert=with_safety)


def read_pairs(args: Namespace) -> list[RawSample]:
    """The test split, or ``args.pairs`` of its pairs, drawn at random.

    Raises:
        UserError: it is missing, with what to download; or damaged, or another data set.
    """
    import datasets

    (datasets.enable_progress_bars if args.progress else datasets.disable_progress_bars)()
    hub = f"the data set {SPLIT.HUB}"
    absent = missing(hub, SPLIT.REVISION, "the folder as it is", args.local_dir)
    folder = args.local_dir and args.local_dir / "PKU-SafeRLHF"
    if folder and not folder.exists():
        raise UserError(absent)
    try:
        data = SPLIT(str(folder) if folder else None, FORM)
    except UserError as error:
        raise error if folder else UserError(f"{absent} ({error})") from None
    if args.pairs is None or args.pairs >= len(data):
        return list(data)
    order = np.random.RandomState([0, zlib.crc32(b"pairs")]).permutation(len(data))
    return [data[int(index)] for index in order[: args.pairs]]


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
def score_texts(model: Any, tokenizer: Any, texts: Sequence[str], args: Namespace) -> torch.Tensor:
    """End scores, size = (N,); texts are cut off at the tokenizer's maximal length."""
    rows = [row[: tokenizer.model_max_length] for row in tokenize(tokenizer, texts)]
    # Of like length side by side; the longest first, so that too little memory shows at once.
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    scores, collate = torch.empty(len(rows)), Padding(tokenizer.pad_token_id)
    bar = progress_bar(total=len(rows), desc="Scoring", disable=not args.progress)
    for start in range(0, len(rows), args.batch_size):
        batch = order[start : start + args.batch_size]
        padded = collate([torch.tensor(rows[index]) for index in batch])
        ends = model(**{name: x.to(model.device) for name, x in padded.items()}).end_scores
        scores[batch] = ends.squeeze(-1).float().cpu()
        bar.update(len(batch))
    bar.close()
    return scores


def accuracy_checks(
    reference: Reference, model: Any, tokenizer: Any, pairs: Sequence[RawSample], args: Namespace
) -> Iterator[Check]:
    """Compare accuracies in percent with the reported ones.

    ``ranking``: pairs of which the model scores the better answer higher (a cost model: the safer
    one lower). ``safety``: answers of which a cost above 0 says unsafe, as people did.
    """
    values, template = reference["values"], SafeRlhfTemplate(tokenizer)
    texts = [full_text(pair, answer, template) for pair in pairs for answer in ANSWERS]
    scores = score_texts(model, tokenizer, texts, args).view(-1, 2)  # size = (N, 2)
    measured = {"ranking": ranking(pairs, scores, values["role"]), "safety": safety(pairs, scores)}
    for what, expected in values["accuracy"].items():
        right, count = measured[what]
        share = right / count
        tolerance = reference["tolerances"]["accuracy"] + sampling_error(share, count)
        name = f"{what} accuracy, % of {count}"
        yield Check(reference["name"], name, expected, 100 * share, tolerance)


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
