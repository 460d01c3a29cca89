"""Training from rewards where the policy's cache is no keys and values, or not only these."""

from __future__ import annotations

import math

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json
from tests.algorithms.helpers import dpo_trainer, grpo_trainer, ppo_trainer
from tests.architectures import tiny_model
from tests.tiny import tiny_tokenizer

GROUPS = ("--num_return_sequences", "4")


@pytest.fixture
def rl_flags(ragged_prompts, rule_rewards, tmp_path):
    """Of a short run from rewards, by the kind of policy."""

    def flags(kind):
        folder = tmp_path / kind
        tiny_model(kind).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return [
            *("--actor_model_name_or_path", str(folder), "--reward_models", *rule_rewards),
            *("--train_datasets", f"prompts:1:{ragged_prompts}", "--max_length", "32"),
            *("--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--lora_module_name", ""),
            *("--per_device_prompt_batch_size", "8", "--per_device_train_batch_size", "8"),
            *("--gradient_accumulation_steps", "1"),
            *("--preference_scope", "sample", "--log_type", "none", "--progress", "false"),
        ]

    return flags


@pytest.mark.parametrize(
    ("kind", "make", "flags"),
    [
        ("mamba", ppo_trainer, ()),
        ("mamba", grpo_trainer, GROUPS),
        ("qwen3_5_text", grpo_trainer, GROUPS),
        ("rwkv", grpo_trainer, GROUPS),
    ],
)
def test_it_trains(kind, make, flags, rl_flags):
    trainer = make([*rl_flags(kind), *flags])
    steps = []
    step = trainer.rl_step
    trainer.rl_step = lambda batch: steps.append(step(batch)) or steps[-1]
    trainer.train()
    assert len(steps) == 2
    assert all(math.isfinite(value) for values in steps for value in values.values())


def test_what_cannot_be_sampled_from_is_refused_before_a_folder_is_claimed(rl_flags, tmp_path):
    with pytest.raises(UserError, match="a RobertaForCausalLM cannot be sampled from"):
        grpo_trainer([*rl_flags("roberta"), *GROUPS])
    assert not (tmp_path / "out").exists()


def test_a_mixtures_training_says_and_records_what_is_adapted(pairs, tmp_path, capsys):
    folder = tmp_path / "qwen3_moe"
    tiny_model("qwen3_moe").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    dpo_trainer(
        [
            *("--model_name_or_path", str(folder), "--objectives", "helpful", "harmless"),
            *("--train_datasets", f"pairs:1:{pairs}", "--output_dir", str(tmp_path / "out")),
            *("--max_length", "64", "--max_steps", "2", "--per_device_train_batch_size", "8"),
            *("--log_type", "none", "--progress", "false"),
        ]
    )
    assert (
        "The adapter reaches 33 % of the weights of the model's layers" in capsys.readouterr().out
    )
    assert read_json(tmp_path / "out" / "run.json")["adapted_share"] == pytest.approx(
        0.33, abs=0.01
    )
