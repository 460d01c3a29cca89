"""The rules that ship, by hand."""

from __future__ import annotations

import sys

import pytest
import torch

from safe_rlhf_panacea import reward_functions as rules
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.reward_functions import concise, length, matches, positive, refuses


def test_conciseness_by_hand():
    """c = 2, r_max = 4: 4 up to two tokens, then 4 + 1 - 3/2 = 3.5 and 4 + 1 - 8/2 = 1."""
    lengths = torch.tensor([0, 1, 2, 3, 8])
    assert concise(lengths, max_length=2, max_reward=4).tolist() == [4, 4, 4, 3.5, 1]
    with pytest.raises(UserError, match="must be positive"):
        concise(lengths, max_length=0)


def test_below_the_floor_is_the_worst_value():
    """c = 4, r_max = 1, floor 2: 0 and 1 are too short, 12 gives 1 + 1 - 3 and 20 no less."""
    lengths = torch.tensor([0, 1, 2, 4, 8, 12, 20])
    found = concise(lengths, max_length=4, min_length=2).tolist()
    assert found == [-1, -1, 1, 1, 0, -1, -1]
    with pytest.raises(UserError, match="min_length 5 is above max_length 4"):
        concise(lengths, max_length=4, min_length=5)


def test_lengths_and_regular_expressions():
    assert length(torch.tensor([0, 7])).tolist() == [0.0, 7.0]
    texts = ["I cannot help.", "Of course: 42", ""]
    assert matches(texts, r"(?i)CAN'?T|cannot") == [1.0, 0.0, 0.0]
    assert refuses(texts, r"\d{1,2}") == [1.0, 0.0, 1.0]
    with pytest.raises(UserError, match=r"pattern '\(' is no regular expression"):
        matches(texts, "(")


def test_positivity_orders_texts_or_says_what_is_missing(monkeypatch):
    pytest.importorskip("vaderSentiment")
    good, none, bad = positive(["What a wonderful day!", "It is four.", "This is horrible."])
    assert good > 0.5 and none == 0 and bad < -0.5
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    rules._sentiment_analyzer.cache_clear()
    with pytest.raises(UserError, match="pip install vaderSentiment"):
        positive(["fine"])
    rules._sentiment_analyzer.cache_clear()
