from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_rlhf_panacea.data.published import PublishedDataset, parse_prompt
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.table import LeaveOut
from safe_rlhf_panacea.errors import UserError

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def row(prompt: Any, response: Any, *ratings: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response} | dict(zip(ATTRIBUTES, ratings, strict=True))


def load(path: Path, name: str = "HelpSteer2/train") -> PublishedDataset:
    raw = RawDataset.load(name, path=str(path))
    assert isinstance(raw, PublishedDataset)
    return raw


@pytest.mark.parametrize("name", ["HelpSteer2/train", "HelpSteer2/validation"])
def test_two_rows_make_a_pair(write: Callable[..., Path], name: str) -> None:
    rows = [row("q", "a", 3, 4, 4, 2, 1), row("q", "b", 4, 0, 4, 1, None)]
    assert list(load(write(rows), name)) == [
        {
            "input": "q",
            "answer": "a",
            "other_answer": "b",
            "labels": {
                "helpfulness": 1,
                "correctness": 0,
                "coherence": None,
                "complexity": 0,
                "verbosity": None,
            },
        }
    ]


def test_which_rows_belong_together(write: Callable[..., Path]) -> None:
    low, high = [0] * 5, [1] * 5
    rows = [
        row("p", "a", *low),  # alone
        row("q", "b", *low),
        row("q", "c", *high),
        row("q", "d", *high),  # the same prompt again makes a second pair
        row("q", "e", *low),
        row("r", "f", *low),  # tied
        row("r", "g", *low),
        row("q", "h", *low),  # not beside the others of its prompt
        row("s", "i", *low),
        row("s", " ", *high),
        row("t", "j", *low),
        row("t", "j", *high),
        row("u", "k", *low),  # the last one
    ]
    raw = load(write(rows))
    assert [(s["answer"], s["other_answer"], s["labels"]["verbosity"]) for s in raw] == [
        ("b", "c", 1),
        ("d", "e", 0),
    ]
    assert [raw.where(i).rsplit(":", 1)[1] for i in range(2)] == ["2", "4"]
    assert raw.left_out == {
        "prompt with one response": 3,
        "tied or unlabelled on every objective": 1,
        "blank response": 1,
        "identical responses": 1,
    }
    assert raw.rows_read == 13


def test_turns() -> None:
    text = "hi\n<extra_id_1>Assistant\nhello\nyou\n<extra_id_1>User\nhow?"
    assert parse_prompt(text) == ["hi", "hello\nyou", "how?"]
    assert parse_prompt("one turn\nof two lines") == "one turn\nof two lines"
    with pytest.raises(LeaveOut, match="speakers that do not take turns"):
        parse_prompt("hi\n<extra_id_1>User\nhow?")
    with pytest.raises(LeaveOut, match="speakers that do not take turns"):
        parse_prompt("hi\n<extra_id_1>Assistant\nhello")
    with pytest.raises(LeaveOut, match="blank turn"):
        parse_prompt("hi\n<extra_id_1>Assistant\n\n<extra_id_1>User\nhow?")


def test_another_schema(write: Callable[..., Path]) -> None:
    good = row("q", "a", *range(5))
    bad = {key: value for key, value in good.items() if key != "verbosity"}
    with pytest.raises(UserError, match=r"data\.jsonl:2: no field 'verbosity'"):
        load(write([good, bad]))
    with pytest.raises(UserError, match=r"coherence is '4'; it is a number or null"):
        load(write([good, good | {"coherence": "4"}]))
