"""Fields of rows, and what is told of the rows that a table's reading leaves out."""

from __future__ import annotations

import logging

import pytest

from safe_rlhf_panacea.data import table
from safe_rlhf_panacea.data.preference import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

PAIR = {"prompt": "q", "response_0": "a", "response_1": "b"}
PAIR |= {"better_response_id": 0, "safer_response_id": 1}
SAME, BLANK = PAIR | {"response_1": "a"}, PAIR | {"prompt": ""}


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [(2, 1, 0), (1, 2, 1), (0, 4, 1), (3, 3, None), (None, 3, None), (3, None, None)],
)
def test_higher(one, other, better):
    assert table.higher(one, other) == better


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, 0), (1, 1), (1.0, 1), (None, None), (-1, None), (0.5, None), (float("nan"), None)],
)
def test_choice(value, label):
    assert table.choice({"id": value}, "id") == label


@pytest.mark.parametrize("value", ["1", True, [0]])
def test_what_is_no_number_is_another_schema(value):
    with pytest.raises(UserError, match=r"id is .*; it is a number or null"):
        table.choice({"id": value}, "id")


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"a": None}, table.LeaveOut, "^blank response$"),
        ({"a": ""}, table.LeaveOut, "^blank response$"),
        ({"a": " \n\t"}, table.LeaveOut, "^blank response$"),
        ({"a": "\ud800"}, table.LeaveOut, "^broken Unicode in the response$"),
        ({"a": ["b"]}, UserError, "a is list; it is a string"),
        ({"b": 1, "c": 2}, UserError, "no field 'a'; there are: b, c"),
        ("row", UserError, "str where an object with the field 'a' belongs"),
    ],
)
def test_text(row, error, message):
    with pytest.raises(error, match=message):
        table.text(row, "a", "response")
    assert table.text({"a": " as it is\n"}, "a", "prompt") == " as it is\n"


def test_one_line_says_what_was_left_out(write, caplog, monkeypatch):
    path = write([PAIR, SAME, BLANK, PAIR, SAME])
    with caplog.at_level(logging.WARNING):
        PreferenceDataset([f"PKU-SafeRLHF/test:1:{path}"], tiny_tokenizer())
    assert caplog.messages == [
        f"PKU-SafeRLHF/test ({path}): 5 rows gave 2 samples; "
        "left out: 2 (identical responses), 1 (blank prompt)"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # not where there is none, nor on other processes
        RawDataset.load("PKU-SafeRLHF/test", path=str(write([PAIR])))
        monkeypatch.setattr(table, "is_main_process", lambda: False)
        RawDataset.load("PKU-SafeRLHF/test", path=str(path))
    assert caplog.messages == []


def test_nothing_of_use(write):
    path = write([BLANK] * 2)
    expected = rf"PKU-SafeRLHF/test \({path}\): nothing of use in 2 rows: 2 \(blank prompt\)$"
    with pytest.raises(UserError, match=expected):
        RawDataset.load("PKU-SafeRLHF/test", path=str(path))


def test_no_row_is_kept_but_as_a_sample(write):
    raw = RawDataset.load("PKU-SafeRLHF/test", path=str(write([PAIR, PAIR])))
    assert raw._where.args[1:] == ([1, 2],)  # the lines only
    assert raw.where(1).endswith("data.jsonl:2")
