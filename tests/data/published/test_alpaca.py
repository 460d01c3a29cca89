from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError

ROW = {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is an instruction"}


@pytest.mark.parametrize("name", ["alpaca", "stanford-alpaca", "tatsu-lab/alpaca"])
def test_instruction_and_input(write: Callable[..., Path], name: str) -> None:
    rows = [ROW, ROW | {"input": ""}, ROW | {"input": None}, ROW | {"output": ""}]
    raw = RawDataset.load(name, path=str(write(rows)))
    assert list(raw) == [
        {"input": "Add. 1, 2", "answer": "3"},
        {"input": "Add.", "answer": "3"},
        {"input": "Add.", "answer": "3"},
    ]
    assert raw.left_out == {"blank response": 1}


def test_another_schema(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r":1: no field 'output'; .* needs instruction, output"):
        RawDataset.load("alpaca", path=str(write([{"instruction": "q", "response": "a"}])))
    with pytest.raises(UserError, match=r"data\.jsonl:1: input is int; it is a string"):
        RawDataset.load("alpaca", path=str(write([ROW | {"input": 7}])))
