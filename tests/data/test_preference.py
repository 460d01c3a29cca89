from __future__ import annotations

import logging

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safe_rlhf_panacea.data.datasets import PreferenceDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

# With the tiny tokenizer a prompt of n characters costs n + 13 tokens.
TEMPLATE = 13
OBJECTIVES = ("helpful", "harmless")


def pair(prompt="q", better="aa", other="b", **labels):
    return {
        "prompt": prompt,
        "response_0": better,
        "response_1": other,
        **{f"better_{name}": value for name, value in labels.items()},
    }


def make(path, max_length=128, **options):
    return PreferenceDataset([f"pairs:1:{path}"], tiny_tokenizer(max_length), **options)


def texts(dataset, index=0):
    item = dataset[index]
    decode = dataset.tokenizer.decode
    return decode(item["better_input_ids"]), decode(item["worse_input_ids"])


@pytest.mark.parametrize(
    ("helpful", "harmless", "better", "labels"),
    [
        (0, 0, "aa", [1, 1]),
        (1, 1, "b", [1, 1]),
        (0, 1, "aa", [1, -1]),
        (1, 0, "b", [1, -1]),
        (0, None, "aa", [1, 0]),
        # the first objective that has a label decides which is better
        (None, 0, "aa", [0, 1]),
        (None, 1, "b", [0, 1]),
    ],
)
def test_order_and_labels(write, helpful, harmless, better, labels):
    rows = [pair(helpful=helpful, harmless=harmless), pair(helpful=0, harmless=0)]
    dataset = make(write(rows))
    worse = "b" if better == "aa" else "aa"
    prompt = "BEGINNING OF CONVERSATION: USER: q ASSISTANT:"
    assert texts(dataset) == (f"{prompt}{better}</s>", f"{prompt}{worse}</s>")
    assert dataset[0]["labels"].tolist() == labels
    assert dataset[0]["labels"].dtype == torch.float32
    assert dataset[0]["prompt_length"] == TEMPLATE + 1


def test_objectives_choose_the_labels_and_their_order(write):
    path = write([pair(a=0, b=1, c=1)])
    assert make(path, objectives=("b", "a")).labels.tolist() == [[1, -1]]
    assert make(path, objectives=("c", "a", "b")).labels.tolist() == [[1, -1, 1]]
    assert texts(make(path, objectives="a"))[0].endswith(":aa</s>")
    assert texts(make(path, objectives="b"))[0].endswith(":b</s>")


def test_unlabelled_rows_are_skipped_and_conflicts_counted(write):
    rows = [
        pair(helpful=0, harmless=1),
        pair(concise=1),
        pair(helpful=None, harmless=None),
        pair(helpful=1),
        pair(helpful=1, harmless=0),
        pair(helpful=1, harmless=1),
    ]
    dataset = make(write(rows))
    assert len(dataset) == 4
    assert dataset.skipped == 2
    labels = [dataset[i]["labels"].tolist() for i in range(4)]
    assert labels == [[1, -1], [1, 0], [1, -1], [1, 1]]
    assert dataset.objectives == OBJECTIVES


def test_one_of_the_objectives_that_count_must_label_a_pair(write, caplog):
    path = write([pair(helpful=0), pair(harmless=1), pair(helpful=0, harmless=1)])
    with caplog.at_level(logging.WARNING):
        dataset = make(path, counted=("harmless",))
    assert "left out of 3 rows: 1 (no label of harmless)" in caplog.text
    assert dataset.labels.tolist() == [[0, 1], [1, -1]]
    assert dataset.skipped == 1
    assert make(path).labels.tolist() == [[1, 0], [0, 1], [1, -1]]


def test_rows_without_room_are_left_out_and_told(write, caplog):
    rows = [
        pair("q" * 4, "a", "b", helpful=0),  # a prompt of 17 tokens: one token of the answer
        pair("q" * 5, "a", "b", helpful=0),  # 18 tokens: no room
        pair("q" * 4, "aa", "ab", helpful=0),  # alike in the one token that is left
        pair("q", "a", "b", helpful=0),
    ]
    with caplog.at_level(logging.WARNING):
        dataset = make(write(rows), TEMPLATE + 5, objectives=("helpful",))
    assert (len(dataset), dataset.too_long, dataset.identical) == (2, 1, 1)
    assert [len(dataset[i]["better_input_ids"]) for i in range(2)] == [18, 16]
    (message,) = caplog.messages
    assert "left out of 4 rows: 1 (prompt of max_length 18 tokens or more), " in message
    assert "1 (responses identical once truncated)" in message
    expected = (
        r"data\.jsonl: nothing left of 2 rows: 1 \(prompt of max_length 18 tokens or more\), "
        r"1 \(responses identical once truncated\); raise max_length"
    )
    with pytest.raises(UserError, match=expected):
        make(write(rows[1:3]), TEMPLATE + 5, objectives=("helpful",))
    long = make(write([pair("qq", "a" * 50, "bc", helpful=0)]), TEMPLATE + 5, objectives="helpful")
    prompt = "BEGINNING OF CONVERSATION: USER: qq ASSISTANT:"
    assert texts(long) == (f"{prompt}aaa", f"{prompt}bc</s>")  # cut on the right
    assert long[0]["prompt_length"] == TEMPLATE + 2


def test_labels_stay_with_their_rows_over_several_calls(write, monkeypatch):
    monkeypatch.setattr("safe_rlhf_panacea.data.tokenized.ROWS_PER_CALL", 2)
    choices = [0, 1, 1, 0, 1]
    rows = [pair(str(i), "a", "b", helpful=choice) for i, choice in enumerate(choices)]
    rows.insert(1, pair())  # skipped
    rows.insert(4, pair("q" * 200, helpful=0))  # too long
    dataset = make(write(rows), objectives=("helpful",))
    assert [texts(dataset, i)[0][-7:] for i in range(5)] == [f"T:{'ab'[c]}</s>" for c in choices]


def test_a_token_across_the_boundary_belongs_to_the_answer(write):
    """Where ':y' is one token, the prompt alone ends with ':' but the full text does not."""
    words = ["<pad>", "</s>", "<unk>", "ASSISTANT", ":", ":y", "n"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    pattern = Regex(r"ASSISTANT|:y|[\s\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    path = write([pair("q", "y", "n", helpful=0), pair("q", "n", "nn", helpful=0)])
    dataset = PreferenceDataset([f"pairs:1:{path}"], fast, objectives=("helpful",))
    length = len(fast("BEGINNING OF CONVERSATION: USER: q ASSISTANT:")["input_ids"])
    assert [dataset[i]["prompt_length"] for i in range(2)] == [length - 1, length]


def test_batch(write):
    rows = [pair("q", "aa", "bbb", helpful=0), pair("qqq", "a", "b", helpful=1, harmless=0)]
    dataset = make(write(rows))
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    # lengths: prompt + answer + eos = 14 + 2 + 1, 14 + 3 + 1; 16 + 1 + 1 twice
    masks = {"better": [17, 18], "worse": [18, 18]}
    for side, lengths in masks.items():
        assert batch[f"{side}_input_ids"].shape == (2, 18)
        mask = batch[f"{side}_attention_mask"]
        assert mask.dtype == torch.bool
        assert mask.sum(dim=1).tolist() == lengths
    assert batch["better_input_ids"][0, 16:].tolist() == [2, 0]  # eos, pad
    assert not batch["better_attention_mask"][0, 17]
    assert batch["labels"].tolist() == [[1, 0], [1, -1]]
    assert batch["prompt_length"].tolist() == [14, 16]


def test_split_shares_tokens_but_no_row(write):
    rows = [pair("q" * (i + 1), helpful=0, harmless=i % 2) for i in range(10)]
    dataset = make(write(rows))
    train, test = dataset.split_train_test(0.3)
    lengths = [[part[i]["prompt_length"] for i in range(len(part))] for part in (train, test)]
    assert [len(part) for part in (train, test)] == [7, 3]
    assert sorted(lengths[0] + lengths[1]) == [TEMPLATE + i + 1 for i in range(10)]
    assert train.better is dataset.better
    with pytest.raises(UserError, match="both parts need at least one"):
        dataset.split_train_test(0.01)


@pytest.mark.parametrize(
    ("name", "objectives", "message"),
    [
        ("pairs", ("brief", "concise"), r"no pair has a label for 'brief'; .*: harmless, helpful"),
        ("pairs", ("helpful", "brief"), r"data\.jsonl: no pair has a label for 'brief'"),
        ("pairs", (), "one or more different names"),
        ("pairs", ("a", "a"), "one or more different names"),
        ("prompts", ("a",), r"data\.jsonl:1: PreferenceDataset needs 'other_answer', but the row "),
    ],
)
def test_what_is_refused(write, name, objectives, message):
    path = write([pair(helpful=0, harmless=1, concise=None)])
    with pytest.raises(UserError, match=message):
        PreferenceDataset([f"{name}:1:{path}"], tiny_tokenizer(), objectives)
