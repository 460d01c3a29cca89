"""The scores that the model cards print, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from safe_rlhf_panacea.regression.checks import Check, worst_of

CARD = "bfloat16"  # the precision of every card; some have another one besides


def sample_ids(tokenizer: Any, text: str) -> torch.Tensor:
    """The ids of a sample text as the cards tokenise it, without an end token; size = (1, L)."""
    return torch.tensor([tokenizer(text)["input_ids"]])


@torch.no_grad()
def score_checks(
    name: str, reference: Mapping[str, Any], model: Any, tokenizer: Any, dtype: str
) -> Iterator[Check]:
    """Compare what a model makes of the sample text with its card.

    Args:
        name: for the checks.
        reference: of the checkpoint. Its ``values`` have ``text``, ``tokens`` (how many),
            ``scores`` and perhaps ``end_score`` by precision, the number of ``early`` tokens,
            and perhaps ``normalizer_mean``.
        model: a score model.
        tokenizer: the model's.
        dtype: the model's precision; where the card has none of it, it is held against bfloat16.
    """
    values, tolerances = reference["values"], reference["tolerances"]
    ids = sample_ids(tokenizer, values["text"]).to(model.device)
    output = model(ids, attention_mask=torch.ones_like(ids))
    found = output.scores[0, :, 0].tolist()
    yield Check(name, "tokens", values["tokens"], len(found), 0.0)
    scores = values["scores"]
    if scores and len(found) == values["tokens"]:  # else no token stands beside its like
        expected = scores.get(dtype, scores[CARD])
        yield from _by_token(name, expected, found, values["early"], tolerances)
    if ends := values.get("end_score"):
        own = dtype in ends
        tolerance = tolerances["end_score" if own else "end_score_other_precision"]
        measured = output.end_scores.item()
        yield Check(name, "end score", ends[dtype if own else CARD], measured, tolerance)
    if (mean := values.get("normalizer_mean")) is not None:
        measured = model.normalizer.mean.item()
        yield Check(name, "normalizer's mean", mean, measured, tolerances["normalizer_mean"])


def _by_token(
    name: str,
    expected: list[float],
    found: list[float],
    early: int,
    tolerances: Mapping[str, float],
) -> Iterator[Check]:
    """The worst of the early tokens and the worst of the later ones; a card may be cut off."""
    names = [f"token {i + 1}" for i in range(len(expected))]
    for part, place in (("early", slice(early)), ("later", slice(early, len(expected)))):
        if expected[place]:
            what = f"score, {part} tokens"
            tolerance = tolerances[f"{part}_tokens"]
            yield worst_of(
                name, what, expected[place], found[: len(expected)][place], tolerance, names[place]
            )
