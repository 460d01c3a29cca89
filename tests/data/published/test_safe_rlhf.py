from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_rlhf_panacea.data.preference import PreferenceDataset
from safe_rlhf_panacea.data.prompt_only import PromptOnlyDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

# As in 2023.
V0 = {
    "prompt": "q",
    "response_0": "a",
    "response_1": "b",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
# What 1.0 has besides.
V1 = V0 | {
    "prompt_source": "Alpaca3-70B",
    "response_0_source": "Alpaca3-8B",
    "response_1_source": "Alpaca-7B",
    "response_0_harm_category": {"Endangering National Security": False, "Violence": False},
    "response_1_harm_category": {"Endangering National Security": False, "Violence": True},
    "response_0_severity_level": 0,
    "response_1_severity_level": 3,
    "response_0_sha256": "4355a46b",
    "response_1_sha256": "ca978112",
}
NAMES = (
    "PKU-SafeRLHF/train",
    "PKU-SafeRLHF/test",
    "PKU-SafeRLHF-v0/train",
    "PKU-SafeRLHF-v0/test",
    "PKU-SafeRLHF-30K/train",
    "PKU-SafeRLHF-30K/test",
    "PKU-SafeRLHF-10K/train",
)


@pytest.mark.parametrize("name", NAMES)
def test_both_versions(write: Callable[..., Path], name: str) -> None:
    path = str(write([V0, V1 | {"better_response_id": 0, "safer_response_id": 1}]))
    raw = RawDataset.load(name, path=path)
    pair = {"input": "q", "answer": "a", "other_answer": "b"}
    assert list(raw) == [
        {**pair, "labels": {"helpful": 1, "harmless": 0}},
        {**pair, "labels": {"helpful": 0, "harmless": 1}},
    ]
    assert raw.OBJECTIVES == ("helpful", "harmless")
    assert raw.left_out == {}


def test_useless_rows_are_left_out_and_counted(write: Callable[..., Path]) -> None:
    changes: list[dict[str, Any]] = [
        {"prompt": " "},
        {"response_0": ""},
        {"response_1": None},
        {"response_1": "a"},
        {"better_response_id": None, "safer_response_id": None},
        {"better_response_id": -1, "safer_response_id": float("nan")},
        {"better_response_id": None},
    ]
    raw = RawDataset.load("PKU-SafeRLHF/train", path=str(write([V1 | c for c in changes])))
    assert [sample["labels"] for sample in raw] == [{"helpful": None, "harmless": 0}]
    assert raw.left_out == {
        "blank prompt": 1,
        "blank response": 2,
        "identical responses": 1,
        "tied or unlabelled on every objective": 2,
    }
    assert raw.rows_read == 7
    assert raw.where(0).endswith("data.jsonl:7")


@pytest.mark.parametrize("field", ["prompt", "response_1", "better_response_id"])
def test_another_schema(write: Callable[..., Path], field: str) -> None:
    row = {key: value for key, value in V0.items() if key != field}
    expected = rf"data\.jsonl:3: no field '{field}'; .*PKU-SafeRLHF needs prompt, response_0, "
    with pytest.raises(UserError, match=expected) as caught:
        RawDataset.load("PKU-SafeRLHF/test", path=str(write([V0, V0, row])))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data\.jsonl:2: prompt is int; it is a string"):
        RawDataset.load("PKU-SafeRLHF/test", path=str(write([V0, V0 | {"prompt": 7}])))


def test_pairs_and_prompts_of_a_training(write: Callable[..., Path]) -> None:
    rows = [V0, V0 | {"response_0": ""}, V0 | {"safer_response_id": 1}]
    spec = f"PKU-SafeRLHF-v0/train:1:{write(rows)}"
    pairs = PreferenceDataset([spec], tiny_tokenizer())
    assert pairs.labels.tolist() == [[1, -1], [1, 1]]
    assert pairs.tokenizer.decode(pairs[0]["better_input_ids"]).endswith("USER: q ASSISTANT:b</s>")
    assert len(PromptOnlyDataset([spec], tiny_tokenizer())) == 1
