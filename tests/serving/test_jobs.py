"""Draws against the distribution that they are drawn from; text as it streams against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safe_rlhf_panacea.serving.jobs import Chooser, Sampling, TextStream

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


@pytest.fixture(scope="module")
def tokenizer():
    """A token per byte: most characters outside ASCII take several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: i for i, letter in enumerate(alphabet, start=1)}}
    own = Tokenizer(models.BPE(vocabulary, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="</s>")


def streamed(tokenizer, text, stops=(), **options):
    """The pieces, and whether a stop text was found."""
    stream = TextStream(tokenizer, stops, **options)
    pieces = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


def test_half_a_character_at_the_end_and_special_tokens(tokenizer):
    stream = TextStream(tokenizer)
    first = tokenizer.encode("🙂", add_special_tokens=False)[:2]
    assert [stream.push(token) for token in (*first, 0)] == ["", "", ""]
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], None),
        ("ab", ["b"], "a"),
        ("aaab", ["aab"], "a"),
        ("x 🙂 y", ["🙂"], "x "),
        ("first second", ["second", "st"], "fir"),
        ("ends with EN", ["END"], None),
        *((text, (), None) for text in ("", "plain", "λ → ∞ 🙂!", "  two  spaces\n\n", "日本語")),
    ],
)
def test_pieces_make_the_text_up_to_a_stop_text(tokenizer, text, stops, expected):
    pieces, stopped = streamed(tokenizer, text, stops)
    assert "".join(pieces) == (text if expected is None else expected)
    assert stopped is (expected is not None)
    assert not any("\ufffd" in piece for piece in pieces)
    stripped, _ = streamed(tokenizer, f" \n{text}", stops, strip=True)
    assert "".join(stripped) == "".join(pieces).lstrip()
