"""What the miniature writes before any training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from safe_rlhf_panacea.base import PreferenceDataset, PromptOnlyDataset, load_pretrained_models
from safe_rlhf_panacea.base.datasets.safe_rlhf_template import format_prompt
from safe_rlhf_panacea.miniature.world import (
    EVAL_PAIRS,
    TRAIN_PAIRS,
    VOCABULARY,
    World,
    build_world,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"), seed=4)


@pytest.fixture(scope="module")
def model_and_tokenizer(world):
    return load_pretrained_models(
        world.base_model, model_max_length=world.max_length, padding_side="left"
    )


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_the_same_seed_writes_the_same_bytes(world, tmp_path):
    again = build_world(tmp_path / "again", seed=4)
    for name in ("sft", "pairs_train", "pairs_eval", "prompts_eval"):
        first, second = (Path(getattr(w, name)).read_bytes() for w in (world, again))
        assert first == second
    models = (Path(w.base_model) / "model.safetensors" for w in (world, again))
    first, second = (path.read_bytes() for path in models)
    assert first == second
    different = build_world(tmp_path / "different", seed=5)
    assert rows(different.sft) != rows(world.sft)


def test_evaluation_prompts_are_in_no_training_file(world):
    trained = {row["prompt"] for row in rows(world.sft) + rows(world.pairs_train)}
    assert trained <= {row["prompt"] for row in rows(world.prompts_train)}
    for name in ("prompts_eval", "prompts_tune", "pairs_eval"):
        assert not trained & {row["prompt"] for row in rows(getattr(world, name))}


def test_pairs_are_as_many_as_said_and_load_with_both_objectives(world, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    assert len(rows(world.pairs_train)) == TRAIN_PAIRS
    dataset = PreferenceDataset([f"pairs:1:{world.pairs_eval}"], tokenizer)
    assert len(dataset) == EVAL_PAIRS
    assert dataset[0]["labels"].abs().tolist() == [1.0, 1.0]


def test_nothing_is_longer_than_the_world_says(world, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    prompts = PromptOnlyDataset([f"prompts:1:{world.prompts_eval}"], tokenizer)
    assert max(len(item["input_ids"]) for item in prompts) <= world.max_prompt_tokens
    texts = [format_prompt(row["prompt"]) + row["response"] + "</s>" for row in rows(world.sft)]
    assert max(map(len, tokenizer(texts)["input_ids"])) <= world.max_length


def test_the_template_costs_two_tokens_and_text_survives(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    assert len(tokenizer) == model.config.vocab_size == VOCABULARY
    ids = tokenizer(format_prompt("How do I knit a scarf?"))["input_ids"]
    alone = tokenizer("How do I knit a scarf?")["input_ids"]
    assert ids[1:-1] == alone
    strange = "Why is QUARTZ 100% (very) jazzy; who said {so}?"
    assert tokenizer.decode(tokenizer(strange)["input_ids"], skip_special_tokens=True) == strange
    answer = "Sure, here is how to knit a scarf. First, choose some soft wool."
    decoded = tokenizer.decode(tokenizer(answer + "</s>")["input_ids"], skip_special_tokens=True)
    assert decoded == answer
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_world_survives_its_dictionary(world):
    assert World.from_dict(json.loads(json.dumps(asdict(world)))) == world
