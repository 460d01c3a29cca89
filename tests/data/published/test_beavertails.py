from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError

ROW = {
    "prompt": "q",
    "response": "a",
    "category": {"animal_abuse": False, "violence": True},
    "is_safe": False,
}


@pytest.mark.parametrize("part", ["330k_train", "330k_test", "30k_train", "30k_test"])
def test_each_prompt_once(write: Callable[..., Path], part: str) -> None:
    prompts = ["q", "r", "q", None, "s", "q", " "]
    path = str(write([ROW | {"prompt": prompt} for prompt in prompts]))
    raw = RawDataset.load(f"BeaverTails/{part}", path=path)
    assert list(raw) == [{"input": "q"}, {"input": "r"}, {"input": "s"}]
    assert raw.left_out == {"prompt that came before": 2, "blank prompt": 2}
    assert [raw.where(i).rsplit(":", 1)[1] for i in range(3)] == ["1", "2", "5"]


def test_another_schema(write: Callable[..., Path]) -> None:
    told = r"data\.jsonl:2: no field 'prompt'; the row has: question; BeaverTails needs prompt$"
    with pytest.raises(UserError, match=told):
        RawDataset.load("BeaverTails/30k_test", path=str(write([ROW, {"question": "q"}])))
