"""Text as it streams against the text as a whole."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safe_rlhf_panacea.serving.jobs import TextStream


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
