"""The columns of the data reach reward functions beside the responses to their own prompts."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.fronts.result import FrontResult
from tests.algorithms.conftest import evaluated, write_lines
from tests.algorithms.helpers import ppo_trainer

seen = {"rows": 0}


def backwards(prompts, turns, reverse):
    """Fails where a column stands beside another prompt than its own."""
    for prompt, (turn,), found in zip(prompts, turns, reverse, strict=True):
        assert found == turn[::-1]
        assert f"USER: {turn} ASSISTANT:" in prompt
    seen["rows"] += len(prompts)
    return [float(len(set(word))) for word in reverse]


@pytest.fixture
def column_flags(ppo_flags, rule_rewards, tmp_path):
    words = ["cde", "c", "gf", "fed", "ec", "dg", "gggg", "fc", "cd", "dcf", "ddd", "e"]
    rows = [{"prompt": word, "reverse": word[::-1]} for word in words]
    data = f"prompts:1:{write_lines(tmp_path / 'prompts.jsonl', rows)}"
    rewards = [rule_rewards[0], f"harmless={__name__}:backwards"]
    return [*ppo_flags, "--train_datasets", data, "--reward_models", *rewards], data, rewards


@pytest.mark.usefixtures("no_page")
def test_from_the_file_to_the_function(column_flags, base_model, tmp_path):
    flags, data, rewards = column_flags
    extra = ["--num_return_sequences", "2", "--per_device_train_batch_size", "4"]
    flags = [*evaluated(flags, data), *extra, "--eval_grid_step", "0.5"]
    trainer = ppo_trainer(flags)
    seen["rows"] = 0
    trainer.train()
    rolled_out = 8 * 2  # in one rollout, of which two training steps are taken
    evaluations = 3 * (12 * 2 + 12 * 3) + 12  # at every step prompts and front, the base once
    assert seen["rows"] == rolled_out + evaluations
    trainer.save()
    command = ["--adapter", str(tmp_path / "out"), "--base_model", str(base_model)]
    command += ["--datasets", data, "--reward_models", *rewards, "--max_length", "32"]
    command += ["--grid_step", "1", "--output_dir", str(tmp_path / "front"), "--progress", "false"]
    seen["rows"] = 0
    evaluate(command)
    assert seen["rows"] == 12 * 3
    assert len(FrontResult.load(tmp_path / "front").points) == 2
