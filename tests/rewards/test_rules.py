"""The rules that ship, by hand; and calibrations, of which some cannot scale rewards."""

from __future__ import annotations

import sys

import pytest
import torch

from safe_rlhf_panacea import reward_functions as rules
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.reward_functions import concise, length, matches, positive, refuses
from safe_rlhf_panacea.rewards.spec import RewardSpec, apply_calibration, write_calibration


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


SPECS = [RewardSpec("kind", "m")]


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("true", "1", "kind.mean must be a number"),
        ("0", "true", "kind.std must be a number"),
        ("0", "1e-320", "single precision can hold"),
        ("0", "1e-40", "single precision can hold"),
        ("0", "1e39", "single precision can hold"),
        ("-1e39", "1", "single precision can hold"),
        ("0", "0", "a positive std"),
        ("0", "-1", "a positive std"),
        ("0", "NaN", "NaN is not finite"),
        ("0", '"1"', "kind.std must be a number"),
        ("0", "null", "kind.std must be a number"),
    ],
)
def test_what_a_file_may_say(mean, std, words, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(f'{{"kind": {{"mean": {mean}, "std": {std}}}}}')
    with pytest.raises(UserError, match=words) as caught:
        apply_calibration(SPECS, file)
    assert str(caught.value).startswith(f"{file}: ")


def test_what_is_there_is_applied(tmp_path):
    file = tmp_path / "c.json"
    rewards = torch.tensor([[1.0], [2.0], [float("nan")], [6.0]])  # for one it does not count
    write_calibration(file, ["kind"], rewards)
    (spec,) = apply_calibration(SPECS, file)
    std = ((4 + 1 + 9) / 2) ** 0.5
    assert read_json(file)["kind"]["responses"] == 3
    assert (spec.shift, spec.scale) == (3.0, pytest.approx(1 / std))


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ([1.0, float("nan")], "counts for 1 responses"),
        ([1.0, 2.0, float("inf")], "gives response 3 inf"),
        ([1.0, 1.0, 1.0], "gives all 3 responses 1"),
        ([0.0, 1e-35, 0.0], "gives all 3 responses"),
    ],
)
def test_what_cannot_be_scaled_is_not_written(rewards, words, tmp_path):
    with pytest.raises(UserError, match=words):
        write_calibration(tmp_path / "c.json", ["kind"], torch.tensor(rewards).unsqueeze(-1))
    assert not list(tmp_path.iterdir())
