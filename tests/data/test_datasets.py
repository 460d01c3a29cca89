"""Tokenised supervised text, pairs and prompts. A prompt of n characters costs n + 13 tokens."""

from __future__ import annotations

import logging

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safe_rlhf_panacea.data import (
    IGNORE_INDEX,
    PreferenceDataset,
    PromptOnlyDataset,
    SupervisedDataset,
    tokenized,
)
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

TEMPLATE = 13
START = "BEGINNING OF CONVERSATION: USER: "
PAIR = {"prompt": "q", "response_0": "a", "response_1": "b"}
EOS, PAD = 2, 0


def pair(prompt="q", better="aa", other="b", **labels):
    named = {f"better_{name}": value for name, value in labels.items()}
    return {"prompt": prompt, "response_0": better, "response_1": other, **named}


@pytest.fixture
def make(write):
    """The tokenised data set of some rows, of a kind of data."""

    def tokenised(dataset, kind, rows, max_length=128, tokenizer=None, **options):
        spec = f"{kind}:1:{write(rows)}"
        return dataset([spec], tokenizer or tiny_tokenizer(max_length), **options)

    return tokenised


@pytest.fixture
def pairs(make):
    return lambda rows, *args, **options: make(PreferenceDataset, "pairs", rows, *args, **options)


@pytest.fixture
def texts(make):
    return lambda rows, **options: make(SupervisedDataset, "supervised", rows, **options)


def both(dataset, index=0):
    """The texts of the better and of the worse response of a pair, without the template's start."""
    ids = [dataset[index][f"{side}_input_ids"] for side in ("better", "worse")]
    texts = list(map(dataset.tokenizer.decode, ids))
    assert all(text.startswith(START) for text in texts)
    return tuple(text.removeprefix(START) for text in texts)


def asked(dataset):
    """The words of all prompts."""
    texts = [dataset.tokenizer.decode(item["input_ids"]) for item in dataset]
    assert all(text.startswith(START) and text.endswith(" ASSISTANT:") for text in texts)
    return [text.removeprefix(START).removesuffix(" ASSISTANT:") for text in texts]


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
def test_order_and_labels(pairs, helpful, harmless, better, labels):
    rows = [pair(helpful=helpful, harmless=harmless), pair(helpful=0, harmless=0), pair(concise=1)]
    dataset = pairs(rows)
    worse = "b" if better == "aa" else "aa"
    assert both(dataset) == (f"q ASSISTANT:{better}</s>", f"q ASSISTANT:{worse}</s>")
    assert dataset[0]["labels"].tolist() == labels
    assert dataset[0]["labels"].dtype == torch.float32
    assert dataset[0]["prompt_length"] == TEMPLATE + 1
    assert len(dataset) == 2  # one has no label that counts


def test_objectives_choose_the_labels_and_their_order(pairs, caplog):
    row = pair(a=0, b=1, c=1)
    assert pairs([row], objectives=("b", "a")).labels.tolist() == [[1, -1]]
    assert pairs([row], objectives=("c", "a", "b")).labels.tolist() == [[1, -1, 1]]
    assert both(pairs([row], objectives="a"))[0].endswith(":aa</s>")
    rows = [pair(helpful=0), pair(harmless=1), pair(helpful=0, harmless=1)]
    assert pairs(rows).labels.tolist() == [[1, 0], [0, 1], [1, -1]]
    with caplog.at_level(logging.WARNING):
        counted = pairs(rows, counted=("harmless",))
    assert "left out of 3 rows: 1 (no label of harmless)" in caplog.text
    assert counted.labels.tolist() == [[0, 1], [1, -1]]


def test_rows_without_room_are_left_out_and_told(pairs, caplog):
    rows = [
        pair("q" * 4, "a", "b", helpful=0),  # a prompt of 17 tokens: one token of the answer
        pair("q" * 5, "a", "b", helpful=0),  # 18 tokens: no room
        pair("q" * 4, "aa", "ab", helpful=0),  # alike in the one token that is left
        pair("q", "a", "b", helpful=0),
    ]
    options = {"max_length": TEMPLATE + 5, "objectives": ("helpful",)}
    with caplog.at_level(logging.WARNING):
        dataset = pairs(rows, **options)
    assert [len(dataset[i]["better_input_ids"]) for i in range(len(dataset))] == [18, 16]
    reasons = "1 (prompt of max_length 18 tokens or more), 1 (responses identical once truncated)"
    (message,) = caplog.messages
    assert message.endswith(f"left out of 4 rows: {reasons}")
    with pytest.raises(UserError) as caught:
        pairs(rows[1:3], **options)
    told = f"data.jsonl: nothing left of 2 rows: {reasons}; raise max_length or shorten the prompts"
    assert str(caught.value).endswith(told)
    long = pairs([pair("qq", "a" * 50, "bc", helpful=0)], **options)
    assert both(long) == ("qq ASSISTANT:aaa", "qq ASSISTANT:bc</s>")  # cut on the right
    assert long[0]["prompt_length"] == TEMPLATE + 2


def test_labels_stay_with_their_rows_over_several_calls(pairs, monkeypatch):
    monkeypatch.setattr(tokenized, "ROWS_PER_CALL", 2)
    choices = [0, 1, 1, 0, 1]
    rows = [pair(str(i), "a", "b", helpful=choice) for i, choice in enumerate(choices)]
    rows.insert(4, pair("q" * 200, helpful=0))  # too long
    dataset = pairs(rows, objectives=("helpful",))
    assert [both(dataset, i)[0][-5:] for i in range(5)] == [f"{'ab'[c]}</s>" for c in choices]


def test_a_token_across_the_boundary_belongs_to_the_answer(pairs):
    """Where ':y' is one token, the prompt alone ends with ':' but the full text does not."""
    words = ["<pad>", "</s>", "<unk>", "ASSISTANT", ":", ":y", "n"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    pattern = Regex(r"ASSISTANT|:y|[\s\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    rows = [pair("q", "y", "n", helpful=0), pair("q", "n", "nn", helpful=0)]
    dataset = pairs(rows, tokenizer=fast, objectives=("helpful",))
    length = len(fast(f"{START}q ASSISTANT:")["input_ids"])
    assert [dataset[i]["prompt_length"] for i in range(2)] == [length - 1, length]


def test_a_batch_of_pairs(pairs):
    rows = [pair("q", "aa", "bbb", helpful=0), pair("qqq", "a", "b", helpful=1, harmless=0)]
    dataset = pairs(rows)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    # lengths: prompt + answer + eos = 14 + 2 + 1, 14 + 3 + 1; 16 + 1 + 1 twice
    for side, lengths in {"better": [17, 18], "worse": [18, 18]}.items():
        assert batch[f"{side}_input_ids"].shape == (2, 18)
        mask = batch[f"{side}_attention_mask"]
        assert (mask.dtype, mask.sum(dim=1).tolist()) == (torch.bool, lengths)
    assert batch["better_input_ids"][0, 16:].tolist() == [EOS, PAD]
    assert not batch["better_attention_mask"][0, 17]
    assert batch["labels"].tolist() == [[1, 0], [1, -1]]
    assert batch["prompt_length"].tolist() == [14, 16]


def test_only_answer_and_eos_are_learnt(texts):
    (item,) = texts([{"prompt": "qq", "response": "abc"}])
    decode = tiny_tokenizer().decode
    assert decode(item["input_ids"]) == f"{START}qq ASSISTANT:abc</s>"
    learnt = item["labels"] != IGNORE_INDEX
    assert learnt.tolist() == [False] * (TEMPLATE + 2) + [True] * 4
    assert decode(item["labels"][learnt]) == "abc</s>"
    (item,) = texts([{"prompt": ["q", "a", "r"], "response": "bc"}])
    assert decode(item["labels"][item["labels"] != IGNORE_INDEX]) == "bc</s>"  # the last one only


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_a_batch_of_texts(texts, pad):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = pad  # also where padding is the token that ends an answer
    rows = [{"prompt": "q", "response": "abc"}, {"prompt": "q", "response": "a"}]
    dataset = texts(rows, tokenizer=tokenizer)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    padding = tokenizer.pad_token_id
    assert {key: tuple(value.shape) for key, value in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "attention_mask"), (2, TEMPLATE + 5)
    )
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"].sum(dim=1).tolist() == [TEMPLATE + 5, TEMPLATE + 3]
    assert batch["input_ids"][1, -3:].tolist() == [EOS, padding, padding]
    assert batch["attention_mask"][1, -3:].tolist() == [True, False, False]
    assert batch["labels"][1, -3:].tolist() == [EOS, IGNORE_INDEX, IGNORE_INDEX]


def test_whole_rows_that_come_again_are_left_out_and_told(make, caplog):
    rows = [{"prompt": text, "place": i} for text, i in (("b", 0), ("a", 1), ("b", 2), ("a", 1))]
    with caplog.at_level(logging.WARNING):
        dataset = make(PromptOnlyDataset, "prompts", rows)
    assert asked(dataset) == ["b", "a", "b"]
    assert [dataset[i]["example"]["place"] for i in range(3)] == [0, 1, 2]
    assert "left out of 4 rows: 1 (came before)" in caplog.text


@pytest.mark.parametrize("kind", ["pairs", "supervised"])
def test_a_prompt_that_several_answers_have_is_one_prompt(make, kind):
    rows = [PAIR | {"response_0": text, "response": text} for text in ("a", "c", "d")]
    dataset = make(PromptOnlyDataset, kind, rows)
    assert (asked(dataset), dataset.left_out) == (["q"], {"came before": 2})


def test_a_batch_of_prompts(make):
    """The padding, also with the token that ends an earlier answer, is what the mask leaves out."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    rows = [{"prompt": "q"}, {"prompt": ["q", "a", "r"]}]
    dataset = make(PromptOnlyDataset, "prompts", rows, tokenizer=tokenizer)
    short, long = (len(item["input_ids"]) for item in dataset)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    assert batch["attention_mask"].dtype == torch.bool
    mask = [[False] * (long - short) + [True] * short, [True] * long]
    assert batch["attention_mask"].tolist() == mask
    assert batch["input_ids"][0, : long - short].tolist() == [EOS] * (long - short)
    assert torch.equal(batch["input_ids"][0, long - short :], dataset[0]["input_ids"])
    assert (batch["input_ids"][1] == EOS).any()


ROW = [PAIR | {"better_helpful": 0, "better_harmless": 1, "better_concise": None}]


@pytest.mark.parametrize(
    ("kind", "objectives", "message"),
    [
        ("pairs", ("brief", "concise"), r"no pair has a label for 'brief'; .*: harmless, helpful"),
        ("pairs", ("helpful", "brief"), r"data\.jsonl: no pair has a label for 'brief'"),
        ("pairs", (), "one or more different names"),
        ("pairs", ("a", "a"), "one or more different names"),
        ("prompts", ("a",), r"data\.jsonl:1: PreferenceDataset needs 'answer', but the row "),
        ("pairs", None, r"data\.jsonl:1: a pair; supervised text has one response"),
        ("prompts", None, "SupervisedDataset needs 'answer', but the row has only"),
    ],
)
def test_what_is_refused(make, kind, objectives, message):
    with pytest.raises(UserError, match=message):
        if objectives is None:
            make(SupervisedDataset, kind, ROW)
        else:
            make(PreferenceDataset, kind, ROW, objectives=objectives)
