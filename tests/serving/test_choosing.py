"""Draws against the distribution that they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.serving.jobs import Chooser, Sampling

CPU = torch.device("cpu")
SETTINGS = [
    {},
    {"top_k": 2},
    {"temperature": 1.3, "top_p": 0.8},
    {"top_k": 99, "temperature": 0.7},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"temperature": 1e-40},
    {"temperature": 3.0, "top_p": 1e-9},
    {"repetition_penalty": 3.0},
    {"repetition_penalty": 0.5, "min_p": 0.1},
    {"temperature": 1.7, "top_k": 4, "top_p": 0.8, "min_p": 0.2, "repetition_penalty": 1.4},
    {"temperature": 0.0, "repetition_penalty": 2.5, "top_k": 3},
    {"top_p": 0.9, "top_k": 5},
]


def transformers_distribution(logits, sequence, settings):
    """Of the next token by transformers' own processors, float64, size = (V,)."""
    from transformers import generation as g

    settings = {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0
    } | settings  # fmt: skip
    ids, scores = torch.tensor([sequence]), logits[None].double()
    scores = g.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"])(ids, scores)
    if settings["temperature"] == 0:
        return torch.nn.functional.one_hot(scores[0].argmax(), len(logits)).double()
    scores = scores / settings["temperature"]
    if settings["top_k"]:
        scores = g.TopKLogitsWarper(settings["top_k"])(ids, scores)
    if settings["top_p"] < 1:
        scores = g.TopPLogitsWarper(settings["top_p"])(ids, scores)
    if settings["min_p"]:
        scores = g.MinPLogitsWarper(settings["min_p"])(ids, scores)
    return scores[0].softmax(-1)


def test_settings_of_each_row_are_those_of_transformers(monkeypatch):
    """Of rows that are in one batch; a row joins, and one leaves, between two steps."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, len(SETTINGS), 12, generator=generator, dtype=torch.float64)
    logits[:, :, 3] = logits[:, :, 7]  # as likely as each other: both are among the top k
    prompts = [[i % 12, (i + 5) % 12, i % 12] for i in range(len(SETTINGS))]
    rows = [
        Sampling(seed=i, prompt=prompt, log_probs=[], **settings)
        for i, (settings, prompt) in enumerate(zip(SETTINGS, prompts, strict=True))
    ]
    first = Chooser(rows[:-1], CPU).choose(logits[0, :-1])
    sequences = [[*prompt, int(token)] for prompt, token in zip(prompts, first, strict=False)]
    sequences = [*sequences[1:], prompts[-1]]
    rows, logits = rows[1:], logits[:, 1:]
    wanted = torch.stack(
        [
            transformers_distribution(row, sequence, settings)
            for row, sequence, settings in zip(logits[1], sequences, SETTINGS[1:], strict=True)
        ]
    )
    points = [(i + 0.5) / 1000 for i in range(1000)]
    found = torch.zeros_like(wanted)
    state = [row.seen for row in rows]
    for point in points:  # the same step for every number that may be drawn
        for row, seen in zip(rows, state, strict=True):
            row.seen = None if seen is None else seen.clone()
            monkeypatch.setattr(row.numbers, "random", lambda point=point: point)
        tokens = Chooser(rows, CPU).choose(logits[1])
        found[torch.arange(len(rows)), tokens] += 1 / len(points)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1.5e-3)
    assert (found[wanted == 0] == 0).all()
    for row, values, token in zip(rows, logits[1].tolist(), tokens, strict=True):
        normaliser = np.log(np.exp(np.array(values)).sum())
        assert row.log_probs[-1] == pytest.approx(values[int(token)] - normaliser, abs=1e-12)
