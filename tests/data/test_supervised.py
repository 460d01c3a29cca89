from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from safe_rlhf_panacea.base.configs.constants import IGNORE_INDEX
from safe_rlhf_panacea.data.supervised import SupervisedDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

TEMPLATE = 13


def make(path: Path, max_length: int = 128, proportion: str = "1") -> SupervisedDataset:
    return SupervisedDataset([f"supervised:{proportion}:{path}"], tiny_tokenizer(max_length))


def test_only_answer_and_eos_are_learnt(write: Callable[..., Path]) -> None:
    dataset = make(write([{"prompt": "qq", "response": "abc"}]))
    item = dataset[0]
    text = "BEGINNING OF CONVERSATION: USER: qq ASSISTANT:abc</s>"
    assert dataset.tokenizer.decode(item["input_ids"]) == text
    learnt = item["labels"] != IGNORE_INDEX
    assert learnt.tolist() == [False] * (TEMPLATE + 2) + [True] * 4
    assert dataset.tokenizer.decode(item["labels"][learnt]) == "abc</s>"


def test_of_several_turns_only_the_last_answer_is_learnt(write: Callable[..., Path]) -> None:
    dataset = make(write([{"prompt": ["q", "a", "r"], "response": "bc"}]))
    labels = dataset[0]["labels"]
    assert dataset.tokenizer.decode(labels[labels != IGNORE_INDEX]) == "bc</s>"


def test_batch(write: Callable[..., Path]) -> None:
    rows = [{"prompt": "q", "response": "abc"}, {"prompt": "q", "response": "a"}]
    dataset = make(write(rows))
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    assert set(batch) == {"input_ids", "labels", "attention_mask"}
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        key: (2, TEMPLATE + 5) for key in batch
    }
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"].sum(dim=1).tolist() == [TEMPLATE + 5, TEMPLATE + 3]
    assert batch["input_ids"][1, -2:].tolist() == [0, 0]
    assert batch["labels"][1, -3:].tolist() == [2, IGNORE_INDEX, IGNORE_INDEX]


def test_padding_with_eos_keeps_the_real_eos(write: Callable[..., Path]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    rows = [{"prompt": "q", "response": "abc"}, {"prompt": "q", "response": "a"}]
    dataset = SupervisedDataset([f"supervised:1:{write(rows)}"], tokenizer)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    eos = tokenizer.eos_token_id
    assert batch["input_ids"][1, -3:].tolist() == [eos] * 3
    assert batch["attention_mask"][1, -3:].tolist() == [True, False, False]
    assert batch["labels"][1, -3:].tolist() == [eos, IGNORE_INDEX, IGNORE_INDEX]


def test_truncation_and_rows_without_room(write: Callable[..., Path]) -> None:
    rows = [
        {"prompt": "qq", "response": "abcdef"},
        {"prompt": "q" * 7, "response": "abc"},  # a prompt of 20 tokens
    ]
    dataset = make(write(rows), max_length=20)
    assert (len(dataset), dataset.too_long) == (1, 1)
    assert len(dataset[0]["input_ids"]) == 20
    assert dataset.tokenizer.decode(dataset[0]["input_ids"][-5:]) == "abcde"
    with pytest.raises(UserError, match="nothing left of 1 rows"):
        make(write(rows[1:]), max_length=20)


def test_proportion_above_one_repeats(write: Callable[..., Path]) -> None:
    path = write([{"prompt": "q", "response": "a" * (i + 1)} for i in range(4)])
    dataset = make(path, proportion="2.5")
    lengths = sorted(len(dataset[i]["input_ids"]) for i in range(len(dataset)))
    assert len(dataset) == 10
    counts = [lengths.count(TEMPLATE + 2 + answer) for answer in range(1, 5)]
    assert sorted(counts) == [2, 2, 3, 3]


def test_pairs_are_refused(write: Callable[..., Path]) -> None:
    path = write([{"prompt": "q", "response_0": "a", "response_1": "b"}])
    with pytest.raises(UserError, match=r"data\.jsonl:1: a pair; supervised text has one response"):
        SupervisedDataset([f"pairs:1:{path}"], tiny_tokenizer())


def test_prompts_are_refused(write: Callable[..., Path]) -> None:
    path = write([{"prompt": "q"}])
    with pytest.raises(UserError, match="SupervisedDataset needs 'answer', but the row has only"):
        SupervisedDataset([f"prompts:1:{path}"], tiny_tokenizer())
