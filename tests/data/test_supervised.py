from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.data.supervised import SupervisedDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

TEMPLATE = 13


def make(path, max_length=128, proportion="1"):
    return SupervisedDataset([f"supervised:{proportion}:{path}"], tiny_tokenizer(max_length))


def test_only_answer_and_eos_are_learnt(write):
    dataset = make(write([{"prompt": "qq", "response": "abc"}]))
    item = dataset[0]
    text = "BEGINNING OF CONVERSATION: USER: qq ASSISTANT:abc</s>"
    assert dataset.tokenizer.decode(item["input_ids"]) == text
    learnt = item["labels"] != IGNORE_INDEX
    assert learnt.tolist() == [False] * (TEMPLATE + 2) + [True] * 4
    assert dataset.tokenizer.decode(item["labels"][learnt]) == "abc</s>"
    (item,) = make(write([{"prompt": ["q", "a", "r"], "response": "bc"}]))
    learnt = item["labels"] != IGNORE_INDEX
    assert dataset.tokenizer.decode(item["labels"][learnt]) == "bc</s>"  # the last answer only


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_batch(write, pad):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = pad  # also where padding is the token that ends an answer
    rows = [{"prompt": "q", "response": "abc"}, {"prompt": "q", "response": "a"}]
    dataset = SupervisedDataset([f"supervised:1:{write(rows)}"], tokenizer)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    eos, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert {key: tuple(value.shape) for key, value in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "attention_mask"), (2, TEMPLATE + 5)
    )
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"].sum(dim=1).tolist() == [TEMPLATE + 5, TEMPLATE + 3]
    assert batch["input_ids"][1, -3:].tolist() == [eos, padding, padding]
    assert batch["attention_mask"][1, -3:].tolist() == [True, False, False]
    assert batch["labels"][1, -3:].tolist() == [eos, IGNORE_INDEX, IGNORE_INDEX]


def test_truncation_and_rows_without_room(write):
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


def test_proportion_above_one_repeats(write):
    path = write([{"prompt": "q", "response": "a" * (i + 1)} for i in range(4)])
    dataset = make(path, proportion="2.5")
    lengths = sorted(len(dataset[i]["input_ids"]) for i in range(len(dataset)))
    assert len(dataset) == 10
    counts = [lengths.count(TEMPLATE + 2 + answer) for answer in range(1, 5)]
    assert sorted(counts) == [2, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pairs", r"data\.jsonl:1: a pair; supervised text has one response"),
        ("prompts", "SupervisedDataset needs 'answer', but the row has only"),
    ],
)
def test_other_kinds_of_rows_are_refused(write, name, message):
    path = write([{"prompt": "q", "response_0": "a", "response_1": "b"}])
    with pytest.raises(UserError, match=message):
        SupervisedDataset([f"{name}:1:{path}"], tiny_tokenizer())
