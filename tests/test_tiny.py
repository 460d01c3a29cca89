from __future__ import annotations

import torch

from tests.tiny import tiny_llama, tiny_tokenizer


def test_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    first, again, other = tiny_llama(seed=3), tiny_llama(seed=3), tiny_llama(seed=4)
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_model_does_not_disturb_the_random_state() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    tiny_llama(seed=7)
    assert torch.equal(torch.rand(3), expected)


def test_tokenizer_round_trip_and_ids() -> None:
    tokenizer = tiny_tokenizer()
    text = "BEGINNING OF CONVERSATION: USER: knit a scarf? ASSISTANT:yes, do.</s>"
    ids = tokenizer(text)["input_ids"]
    # 5 words and one eos, each a single token; every other character is one token
    characters = ["BEGINNING", "OF", "CONVERSATION", "USER", "ASSISTANT", "</s>"]
    assert len(ids) == len(text) - sum(len(word) - 1 for word in characters)
    assert ids[-1] == tokenizer.eos_token_id == 2
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.removesuffix("</s>")
    assert tokenizer("Q")["input_ids"] == [tokenizer.unk_token_id] == [3]


def test_tokenizer_fits_the_model_and_pads_with_its_own_id() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) <= tiny_llama().config.vocab_size
    batch = tokenizer(["a", "abc"], padding=True, return_tensors="pt")
    assert batch["input_ids"][0].tolist()[1:] == [tokenizer.pad_token_id] * 2 == [0, 0]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
