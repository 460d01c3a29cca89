"""What the miniature writes before any training."""

from __future__ import annotations

import hashlib
import json

import pytest

from safe_rlhf_panacea.base import PreferenceDataset, PromptOnlyDataset, load_pretrained_models
from safe_rlhf_panacea.data.templates import SafeRlhfTemplate
from safe_rlhf_panacea.miniature.corpus import ROWS, VOCABULARY
from safe_rlhf_panacea.miniature.world import build_world, load_world

FILES = ("sft", "pairs-train", "pairs-eval", "prompts-train", "prompts-tune", "prompts-eval")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"), seed=42)


@pytest.fixture(scope="module")
def model_and_tokenizer(world):
    return load_pretrained_models(
        world.base_model, model_max_length=world.max_length, padding_side="left"
    )


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_the_same_seed_writes_the_same_bytes(world, tmp_path):
    again = build_world(tmp_path / "again", seed=42)
    for name in FILES:
        assert world.file(name).read_bytes() == again.file(name).read_bytes()
    first, second = (w.base_model / "model.safetensors" for w in (world, again))
    assert first.read_bytes() == second.read_bytes()
    different = build_world(tmp_path / "different", seed=43)
    assert rows(different.file("sft")) != rows(world.file("sft"))


def test_evaluation_prompts_are_in_no_training_file(world):
    def prompts(name):
        return {row["prompt"] for row in rows(world.file(name))}

    trained = prompts("sft") | prompts("pairs-train")
    assert trained <= prompts("prompts-train")
    for name in ("prompts-eval", "prompts-tune", "pairs-eval"):
        assert not trained & prompts(name)


def test_pairs_are_as_many_as_said_and_load_with_both_objectives(world, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    assert len(rows(world.file("pairs-train"))) == ROWS["pairs-train"]
    dataset = PreferenceDataset([f"pairs:1:{world.file('pairs-eval')}"], tokenizer)
    assert len(dataset) == ROWS["pairs-eval"]
    assert dataset[0]["labels"].abs().tolist() == [1.0, 1.0]


def test_nothing_is_longer_than_the_world_says(world, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    prompts = PromptOnlyDataset([f"prompts:1:{world.file('prompts-eval')}"], tokenizer)
    assert max(len(item["input_ids"]) for item in prompts) <= world.max_prompt_tokens
    template = SafeRlhfTemplate(tokenizer)
    texts = [
        template.prompt(row["prompt"]) + row["response"] + "</s>" for row in rows(world.file("sft"))
    ]
    assert max(map(len, tokenizer(texts)["input_ids"])) <= world.max_length


def test_the_template_costs_two_tokens_and_text_survives(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    assert len(tokenizer) == model.config.vocab_size == VOCABULARY
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer(SafeRlhfTemplate(tokenizer).prompt("How do I knit a scarf?"))["input_ids"]
    assert ids[1:-1] == tokenizer("How do I knit a scarf?")["input_ids"]
    answer = "Sure, here is how to knit a scarf. First, choose some soft wool."
    for text in ("Why is QUARTZ 100% (very) jazzy; who said {so}?", answer):
        ids = tokenizer(text + "</s>")["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_texts_are_those_of_the_recorded_figures(world):
    """The quickstart's seed: whoever changes a text changes every figure."""
    texts = b"".join(world.file(name).read_bytes() for name in FILES)
    assert hashlib.sha256(texts).hexdigest()[:16] == "9e608af53488e7cb"
    assert (world.max_prompt_tokens, world.max_length) == (20, 107)
    assert load_world(world.folder) == world
