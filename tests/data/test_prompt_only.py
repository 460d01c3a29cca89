from __future__ import annotations

import logging

import pytest
import torch

from safe_rlhf_panacea.data import template
from safe_rlhf_panacea.data.datasets import PromptOnlyDataset
from safe_rlhf_panacea.data.template import tokenize
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

TEMPLATE = 13


def prompts(*lengths):
    return [{"prompt": "q" * length} for length in lengths]


def decoded(dataset):
    start, end = "BEGINNING OF CONVERSATION: USER: ", " ASSISTANT:"
    texts = [dataset.tokenizer.decode(dataset[i]["input_ids"]) for i in range(len(dataset))]
    assert all(text.startswith(start) and text.endswith(end) for text in texts)
    return [text.removeprefix(start).removesuffix(end) for text in texts]


def test_whole_rows_that_come_again_are_left_out_and_told(write, caplog):
    rows = [{"prompt": text, "place": i} for text, i in (("b", 0), ("a", 1), ("b", 2), ("a", 1))]
    with caplog.at_level(logging.WARNING):
        dataset = PromptOnlyDataset([f"prompts:1:{write(rows)}"], tiny_tokenizer())
    assert decoded(dataset) == ["b", "a", "b"]
    assert [dataset[i]["example"]["place"] for i in range(3)] == [0, 1, 2]
    assert dataset.duplicates == 1
    assert "left out of 4 rows: 1 (came before)" in caplog.text


@pytest.mark.parametrize("kind", ["pairs", "supervised"])
def test_a_prompt_that_several_answers_have_is_one_prompt(write, kind):
    texts = ("a", "b", "c")
    rows = [
        {"prompt": "q", "response_0": text, "response_1": "d", "response": text} for text in texts
    ]
    dataset = PromptOnlyDataset([f"{kind}:1:{write(rows)}"], tiny_tokenizer())
    assert (decoded(dataset), dataset.duplicates) == (["q"], 2)


def test_prompt_as_long_as_max_length(write):
    path = write(prompts(6, 7, 8))  # 19, 20 and 21 tokens
    tokenizer = tiny_tokenizer(20)
    dataset = PromptOnlyDataset([f"prompts:1:{path}"], tokenizer)
    assert decoded(dataset) == ["q" * 6]
    assert dataset.too_long == 2
    with pytest.raises(
        UserError, match=r"nothing left of 2 rows: 2 \(prompt of max_length 20 tokens or more\)"
    ):
        PromptOnlyDataset([f"prompts:1:{write(prompts(7, 8))}"], tokenizer)


def test_padded_on_the_left(write):
    tokenizer = tiny_tokenizer()
    dataset = PromptOnlyDataset([f"prompts:1:{write(prompts(1, 3))}"], tokenizer)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    assert batch["input_ids"].shape == (2, TEMPLATE + 3)
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"][0].tolist() == [False] * 2 + [True] * (TEMPLATE + 1)
    assert batch["attention_mask"][1].all()
    assert batch["input_ids"][0, :2].tolist() == [tokenizer.pad_token_id] * 2
    assert torch.equal(batch["input_ids"][0, 2:], dataset[0]["input_ids"])


def test_mask_does_not_come_from_the_pad_id(write):
    """A tokenizer that pads with eos, and an earlier answer that ends with it."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    path = write([{"prompt": ["q", "a", "r"]}, {"prompt": "q"}])
    dataset = PromptOnlyDataset([f"prompts:1:{path}"], tokenizer)
    batch = dataset.get_collator()([dataset[0], dataset[1]])
    assert (batch["input_ids"][0] == tokenizer.pad_token_id).any()
    assert batch["attention_mask"][0].all()


def test_tokenised_in_batches(write, monkeypatch):
    path = write([{"prompt": str(i)} for i in range(2500)])
    calls = []

    def counted(*args):
        calls.append(args)
        return tokenize(*args)

    monkeypatch.setattr(template, "tokenize", counted)
    dataset = PromptOnlyDataset([f"prompts:1:{path}"], tiny_tokenizer())
    assert decoded(dataset)[-1] == "2499"
    assert len(calls) == 3  # 2500 rows by 1024


def test_proportions(write):
    path = write([{"prompt": str(i)} for i in range(20)])

    def take(proportion, seed):
        spec = f"prompts:{proportion}:{path}"
        return decoded(PromptOnlyDataset([spec], tiny_tokenizer(), seed=seed))

    everything = [str(i) for i in range(20)]
    half = take("0.5", seed=1)
    assert len(half) == len(set(half)) == 10
    assert set(half) < set(everything)
    assert take("1/2", seed=1) == half
    assert take("0.5", seed=2) != half
    assert len(take("3/-1", seed=1)) == 3
    assert take("1", seed=1) == everything
    one = write([{"prompt": "a"}], "one.jsonl")
    two = write([{"prompt": "b"}, {"prompt": "a"}], "two.jsonl")
    both = PromptOnlyDataset([f"prompts:1:{one}", f"prompts:1:{two}"], tiny_tokenizer())
    assert decoded(both) == ["a", "b"]


@pytest.mark.parametrize("role", ["eos", "pad"])
def test_tokenizer_without_special_tokens(write, role):
    tokenizer = tiny_tokenizer()
    setattr(tokenizer, f"{role}_token", None)
    with pytest.raises(UserError, match=f"the tokenizer has no {role} token"):
        PromptOnlyDataset([f"prompts:1:{write(prompts(1))}"], tokenizer)
