"""Published reward and cost models: the scores on their cards, and how often people agree."""

from __future__ import annotations

import functools
import gc
import math
import socket
import urllib.parse
import urllib.request
import zlib
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from safe_rlhf_panacea.data import RawSample
from safe_rlhf_panacea.data.published import safe_rlhf
from safe_rlhf_panacea.data.raw import RawDataset, Row
from safe_rlhf_panacea.data.template import tokenize
from safe_rlhf_panacea.data.templates import SafeRlhfTemplate
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models
from safe_rlhf_panacea.runs.logger import progress_bar

Reference = Mapping[str, Any]
CARD = "bfloat16"  # the precision of every card; some have another one besides
HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Check:
    """A measured number beside its reference, and the largest difference that is still the same."""

    checkpoint: str
    what: str
    expected: float
    measured: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Measured minus expected."""
        return self.measured - self.expected

    @property
    def same(self) -> bool:
        """Whether the difference is within the tolerance; NaN and infinities never are."""
        return math.isfinite(self.difference) and abs(self.difference) <= self.tolerance

    @property
    def row(self) -> list[str]:
        """As the table shows it."""
        numbers = [f"{self.expected:.6g}", f"{self.measured:.6g}"]
        numbers += [f"{self.difference:+.2g}", f"{self.tolerance:.2g}"]
        return [self.checkpoint, self.what, *numbers, "same" if self.same else "DIFFERS"]


# -- finding and loading a checkpoint -------------------------------------------------------


def locate(values: Mapping[str, Any], local_dir: Path | None) -> tuple[str | Path, dict[str, str]]:
    """A checkpoint's folder, or its name on the hub with the revision to take.

    What is in neither place is a ``UserError`` that says what to download.
    """
    hub, revision = values["hub"], values["revision"]
    if local_dir is not None:
        folder = local_dir / hub.rpartition("/")[2]
        if folder.is_dir():
            return folder, {}
    elif _is_on_hub(hub, revision):
        return hub, {"revision": revision} if revision else {}
    raise UserError(missing(hub, revision, f"about {values['gigabytes']} GB", local_dir))


def missing(hub: str, revision: str | None, size: str, local_dir: Path | None) -> str:
    """What is missing, and how to get it."""
    name = hub.rpartition("/")[2]
    at = f"revision {revision}" if revision else "no revision is known"
    download = f"download {hub} ({at}; {size}) into {(local_dir or Path('DIR')) / name}"
    if local_dir is not None:
        return f"{name}: not in {local_dir}; {download}"
    return f"{name}: the hub has it not, or cannot be reached; {download} and give --local_dir DIR"


def _is_on_hub(hub: str, revision: str | None) -> bool:
    from huggingface_hub import hf_hub_download

    offline = not _hub_answers()
    try:
        hf_hub_download(hub, "config.json", revision=revision, local_files_only=offline)
    except Exception:  # no network, no such name, or no access
        return False
    return True


@functools.lru_cache(maxsize=1)
def _hub_answers() -> bool:
    """Asked once: the hub's client would try for half a minute with each checkpoint."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True  # only the proxy knows whether it reaches the hub
    where = urllib.parse.urlparse(constants.ENDPOINT)
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        socket.create_connection((where.hostname, port), timeout=HUB_TIMEOUT).close()
    except OSError:
        return False
    return True


@contextmanager
def loaded(values: Mapping[str, Any], args: Namespace) -> Iterator[tuple[Any, Any]]:
    """The model, on the GPU if there is one, and its tokenizer.

    The role is the reference's: the configuration of a cost model may call it a reward model.
    """
    place, revision = locate(values, args.local_dir)
    role = {"score_type": values["role"], "do_normalize": values["do_normalize"]}
    model, tokenizer = load_pretrained_models(
        place,
        auto_model_type=AutoModelForScore,
        dtype=getattr(torch, args.dtype),
        auto_model_kwargs={**role, **revision},
        auto_tokenizer_kwargs=revision,
    )
    try:
        yield model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
    finally:
        del model  # before the next one is loaded: two of 7B would not fit
        gc.collect()
        torch.cuda.empty_cache()


# -- the scores on the model's card ---------------------------------------------------------


@torch.no_grad()
def score_checks(reference: Reference, model: Any, tokenizer: Any, dtype: str) -> Iterator[Check]:
    """Compare the scores of the sample text with those that the card prints.

    A card without scores in the model's precision, ``dtype``, is compared in bfloat16.
    """
    name, values, tolerances = reference["name"], reference["values"], reference["tolerances"]
    # As the cards tokenise it, without an end token; size = (1, L).
    ids = torch.tensor([tokenizer(values["text"])["input_ids"]], device=model.device)
    output = model(ids, attention_mask=torch.ones_like(ids))
    found = output.scores[0, :, 0].tolist()
    yield Check(name, "tokens", values["tokens"], len(found), 0.0)
    scores = values["scores"]
    if scores and len(found) == values["tokens"]:  # else no token stands beside its like
        expected = scores.get(dtype, scores[CARD])  # a card may be cut off
        by_part: dict[str, list[Check]] = {"early": [], "later": []}
        for i, score in enumerate(expected):
            part = "early" if i < values["early"] else "later"
            what, tolerance = f"score, {part} tokens, token {i + 1}", tolerances[f"{part}_tokens"]
            by_part[part].append(Check(name, what, score, found[i], tolerance))
        for checks in by_part.values():
            yield from sorted(checks, key=_distance)[-1:]  # the worst
    if ends := values.get("end_score"):
        own = dtype in ends
        tolerance = tolerances["end_score" if own else "end_score_other_precision"]
        measured = output.end_scores.item()
        yield Check(name, "end score", ends[dtype if own else CARD], measured, tolerance)
    if (mean := values.get("normalizer_mean")) is not None:
        measured = model.normalizer.mean.item()
        yield Check(name, "normalizer's mean", mean, measured, tolerances["normalizer_mean"])


def _distance(check: Check) -> float:
    """How far off a number is; NaN is farther than all others."""
    return abs(check.difference) if math.isfinite(check.difference) else math.inf


# -- accuracies on a published test split -----------------------------------------------------

SPLIT: Any = RawDataset.registry["PKU-SafeRLHF-v0/test"]
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
    """The test split, or ``args.pairs`` of its pairs, drawn at random."""
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


@torch.no_grad()
def score_texts(model: Any, tokenizer: Any, texts: Sequence[str], args: Namespace) -> torch.Tensor:
    """End scores, size = (N,); texts are cut off at the tokenizer's maximal length."""
    rows = [row[: tokenizer.model_max_length] for row in tokenize(tokenizer, texts)]
    # Of like length side by side; the longest first, so that too little memory shows at once.
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    scores = torch.empty(len(rows))
    bar = progress_bar(total=len(rows), desc="Scoring", disable=not args.progress)
    for start in range(0, len(rows), args.batch_size):
        batch = order[start : start + args.batch_size]
        cut = [torch.tensor(rows[index]) for index in batch]
        ids = pad_sequence(cut, batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in cut], batch_first=True).bool()
        ends = model(ids.to(model.device), attention_mask=mask.to(model.device)).end_scores
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
    texts = []
    for pair in pairs:  # as in training: prompt, answer, end token
        prompt = template.prompt(pair["input"])
        answers = (pair[name] for name in ANSWERS)  # type: ignore[literal-required]
        texts += [prompt + template.rest(prompt, pair["input"], answer) for answer in answers]
    scores = score_texts(model, tokenizer, texts, args).view(-1, 2)  # size = (N, 2)
    measured = {"ranking": ranking(pairs, scores, values["role"]), "safety": safety(pairs, scores)}
    for what, expected in values["accuracy"].items():
        right, count = measured[what]
        share = right / count
        # Three standard errors of a share, in percentage points.
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
