from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def completion(response: Any, *ratings: Any) -> dict[str, Any]:
    """As published; the ratings are those of ASPECTS."""
    annotations = {
        aspect: {"Rating": rating, "Rationale": "because"}
        for aspect, rating in zip(ASPECTS, ratings, strict=True)
    }
    annotations["truthfulness"] |= {"Type": ["1"], "Rationale For Rating": "none"}
    return {
        "annotations": annotations,
        "critique": "good",
        "custom_system_prompt": "be helpful",
        "fine-grained_score": 4.25,
        "model": "alpaca-7b",
        "overall_score": 7.0,
        "principle": "helpfulness",
        "response": response,
    }


def row(*completions: Any) -> dict[str, Any]:
    return {
        "source": "flan",
        "instruction": "q",
        "models": ["alpaca-7b"],
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def load(path: Path) -> PublishedDataset:
    raw = RawDataset.load("UltraFeedback", path=str(path))
    assert isinstance(raw, PublishedDataset)
    return raw


def test_all_pairs_of_four_completions(write: Callable[..., Path]) -> None:
    completions = [
        completion("a", "5", "3", "N/A", "1"),
        completion("b", "4", "3", "5", "2"),
        completion("c", "5", "1", "1", "3"),
        completion("d", "1", "1", "1", "4"),
    ]
    raw = load(write([row(*completions)]))
    found = [
        (s["answer"] + s["other_answer"], [s["labels"][name] for name in ASPECTS]) for s in raw
    ]
    assert found == [
        ("ab", [0, None, None, 1]),
        ("ac", [None, 0, None, 1]),
        ("ad", [0, 0, None, 1]),
        ("bc", [1, 0, 0, 1]),
        ("bd", [0, 0, 0, 1]),
        ("cd", [0, None, None, 1]),
    ]
    assert {s["input"] for s in raw} == {"q"}
    assert (raw.rows_read, len(raw)) == (1, 6)
    assert raw.where(5).endswith("data.jsonl:1")


@pytest.mark.parametrize("missing", ["N/A", None, "", "nan", "four", []])
def test_what_is_no_rating_labels_nothing(write: Callable[..., Path], missing: Any) -> None:
    one, other = completion("a", "5", missing, "1", "1"), completion("b", "4", "2", 2, "1.0")
    del other["annotations"]["instruction_following"]
    assert load(write([row(one, other)]))[0]["labels"] == {
        "instruction_following": None,
        "honesty": None,
        "truthfulness": 1,
        "helpfulness": None,
    }


def test_useless_pairs_are_counted(write: Callable[..., Path]) -> None:
    low, high = ["1"] * 4, ["2"] * 4
    rows = [
        row(completion("a", *low), completion("b", *high)),
        row(completion("a", *low), completion("", *high), completion("b", *low)),
        row(completion("a", *low), completion("a", *high)),
        row(completion("a", *low), completion("b", *high) | {"annotations": None}),
        row(completion("a", *low)),
        row(),
        row(completion("a", *low), completion("b", *high)) | {"completions": None},
        row(completion("a", *low), completion("b", *high)) | {"instruction": ""},
    ]
    raw = load(write(rows))
    assert len(raw) == 1
    assert raw.left_out == {
        "blank response": 2,  # in two of three pairs
        "tied or unlabelled on every objective": 2,  # the third, and the one without annotations
        "identical responses": 1,
        "fewer than two completions": 3,
        "blank prompt": 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": "a"}, "completions is str; it is a list"),
        ({"completions": ["a", "b"]}, "str where an object with the field 'response' belongs"),
        ({"completions": [{"response": "a"}, {"response": "b"}]}, "no field 'annotations'"),
    ],
)
def test_another_schema(write: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    good = row(completion("a", *"1111"), completion("b", *"2222"))
    with pytest.raises(UserError, match=rf"data\.jsonl:2: {message}"):
        load(write([good, good | change]))
    with pytest.raises(UserError, match=r"data\.jsonl:1: no field 'completions'"):
        load(write([{"instruction": "q"}]))
