from __future__ import annotations

from typing import Any

import pytest

from safe_rlhf_panacea.data import table as fields
from safe_rlhf_panacea.errors import UserError


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [(2, 1, 0), (1, 2, 1), (0, 4, 1), (3, 3, None), (None, 3, None), (3, None, None)],
)
def test_higher(one: float | None, other: float | None, better: int | None) -> None:
    assert fields.higher(one, other) == better


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, 0), (1, 1), (1.0, 1), (None, None), (-1, None), (0.5, None), (float("nan"), None)],
)
def test_choice(value: Any, label: int | None) -> None:
    assert fields.choice({"id": value}, "id") == label


@pytest.mark.parametrize("value", ["1", True, [0]])
def test_what_is_no_number_is_another_schema(value: Any) -> None:
    with pytest.raises(UserError, match=r"id is .*; it is a number or null"):
        fields.choice({"id": value}, "id")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "blank response"),
        ("", "blank response"),
        (" \n\t", "blank response"),
        ("\ud800", "broken Unicode in the response"),
    ],
)
def test_useless_text_is_left_out(value: Any, reason: str) -> None:
    with pytest.raises(fields.LeaveOut, match=f"^{reason}$"):
        fields.text({"response_0": value}, "response_0", "response")


def test_text() -> None:
    assert fields.text({"a": " as it is\n"}, "a", "prompt") == " as it is\n"
    with pytest.raises(UserError, match="a is list; it is a string"):
        fields.text({"a": ["b"]}, "a", "prompt")
    with pytest.raises(UserError, match="no field 'a'; there are: b, c"):
        fields.text({"b": 1, "c": 2}, "a", "prompt")
    with pytest.raises(UserError, match="str where an object with the field 'a' belongs"):
        fields.text("row", "a", "prompt")  # type: ignore[arg-type]


def test_a_pair_says_something() -> None:
    sample = fields.pair("q", "a", "b", {"x": None, "y": 1})
    assert sample == {
        "input": "q",
        "answer": "a",
        "other_answer": "b",
        "labels": {"x": None, "y": 1},
    }
    with pytest.raises(fields.LeaveOut, match="identical responses"):
        fields.pair("q", "a", "a", {"x": 1})
    with pytest.raises(fields.LeaveOut, match="tied or unlabelled on every objective"):
        fields.pair("q", "a", "b", {"x": None, "y": None})
