"""Objectives that count for some prompts only: one run mixes tasks with different rewards."""

from __future__ import annotations

import json
import math

import pytest
import torch

from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.fronts.evaluations import read_evaluations, read_responses
from safe_rlhf_panacea.fronts.result import FrontResult
from tests.algorithms.conftest import evaluated, write_lines
from tests.algorithms.helpers import grpo_trainer, ppo_trainer

TRAINERS = {"ppo": ppo_trainer, "grpo": grpo_trainer}
steps = []


def of_first_task(completions, task, trainer_state, log_metric, **kwargs):
    """TRL's signature."""
    log_metric("task_1", sum(name == "1" for name in task) / len(task))
    steps.append((trainer_state.global_step, trainer_state.max_steps))
    assert len(kwargs["prompts"]) == len(completions)
    return [float(len(c)) if t == "1" else None for c, t in zip(completions, task, strict=True)]


async def of_second_task(responses, turns, task, reverse, log_extra):
    """Fails where a column stands beside another prompt than its own."""
    assert reverse == [turn[::-1] for (turn,) in turns]
    log_extra("initial", [text[:1] for text in responses])
    log_extra("odd", [float("nan") for _ in responses])
    return [-float(len(r)) if t == "2" else None for r, t in zip(responses, task, strict=True)]


@pytest.fixture
def mixed_flags(ppo_flags, tmp_path):
    """A third of the prompts belong to each task, and to none."""
    words = ["cde", "c", "gf", "fed", "ec", "dg", "gggg", "fc", "cd", "dcf", "ddd", "e"]
    rows = [
        {"prompt": word, "task": str(place % 3), "reverse": word[::-1]}
        for place, word in enumerate(words)
    ]
    data = f"prompts:1:{write_lines(tmp_path / 'mixed.jsonl', rows)}"
    rewards = [f"one={__name__}:of_first_task", f"two={__name__}:of_second_task"]
    flags = [*ppo_flags, "--train_datasets", data, "--reward_models", *rewards]
    return flags, data, rewards


def aggregate(row, preference, method, ideal):
    there = [i for i, value in enumerate(row) if not math.isnan(value)]
    if not there:
        return 0.0
    if method == "ls":
        return sum(preference[i] * row[i] for i in there)
    return min(preference[i] * (row[i] - ideal[i]) for i in there)


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(("algorithm", "method"), [("ppo", "tche"), ("grpo", "ls")])
def test_a_training_on_two_tasks(algorithm, method, mixed_flags, base_model, tmp_path):
    flags, data, rewards = mixed_flags
    flags = [*evaluated(flags, data), "--eval_grid_step", "1", "--aggregation", method]
    flags += ["--per_device_prompt_batch_size", "12", "--per_device_train_batch_size", "24"]
    if algorithm == "grpo":
        flags += ["--num_return_sequences", "2"]
    else:
        flags[flags.index("24")] = "12"
    trainer, rollouts = TRAINERS[algorithm](flags), []
    score = trainer.score

    def watched(*args):
        rollouts.append(score(*args) | {"preference": trainer.panacea.held[0]})
        return rollouts[-1]

    trainer.score = watched
    steps.clear()
    trainer.train()
    metrics = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").open()]
    first = next(line for line in metrics if "train/reward" in line)
    rewards_, found = rollouts[0]["rewards"], rollouts[0]["reward"]
    assert rewards_.isnan().sum(dim=0).tolist() == [2 * len(rewards_) // 3] * 2
    preference = rollouts[0]["preference"].expand_as(rewards_).tolist()
    ideal = rewards_.nan_to_num(-math.inf).amax(dim=0).tolist()
    expected = [
        aggregate(row, weights, method, ideal)
        for row, weights in zip(rewards_.double().tolist(), preference, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert first["train/without_reward"] == pytest.approx(1 / 3)
    assert first["train/task_1"] == pytest.approx(1 / 3)
    for index, name in enumerate(["one", "two"]):
        mean = rewards_[:, index].nanmean().item()
        assert first[f"train/reward_{name}"] == pytest.approx(mean, rel=1e-5)
        assert first[f"train/raw_reward_{name}"] == pytest.approx(mean, rel=1e-5)
    evaluations = [line for line in metrics if "eval/reward_one" in line]
    assert evaluations[0]["eval/task_1"] == pytest.approx(1 / 3, abs=0.02)  # a mean of batches
    assert all(math.isfinite(line["eval/reward_two"]) for line in evaluations)
    assert {step for step, _ in steps} == {0, 1, 2}
    assert {total for _, total in steps} == {2}
    (evaluation, *_) = read_evaluations(tmp_path / "out")
    assert all(row["initial"] == row["response"][:1] for row in evaluation.responses)
    trainer.save()
    _check_evaluation(data, rewards, base_model, tmp_path)


def _check_evaluation(data, rewards, base_model, tmp_path):
    command = ["--adapter", str(tmp_path / "out"), "--base_model", str(base_model)]
    command += ["--datasets", data, "--reward_models", *rewards, "--max_length", "32"]
    command += ["--grid_step", "1", "--output_dir", str(tmp_path / "front"), "--progress", "false"]
    evaluate(command)
    front = FrontResult.load(tmp_path / "front").points
    rows = read_responses(tmp_path / "front", ["one", "two"])
    assert all((row["initial"], row["odd"]) == (row["response"][:1], "nan") for row in rows)
    for point in front:
        own = [row["rewards"] for row in rows if tuple(row["preference"]) == point.preference]
        for index, mean in enumerate(point.objectives):
            there = [row[index] for row in own if row[index] is not None]
            assert len(there) == 4
            assert mean == pytest.approx(sum(there) / 4, abs=1e-5)


@pytest.mark.usefixtures("no_page")
def test_a_batch_without_any_value(mixed_flags, tmp_path):
    """Its step is one of zeros, and what is known of no response is left out of the metrics."""
    flags = mixed_flags[0]
    words = ("cde", "c", "gf", "fed")
    rows = [{"prompt": word, "task": "0", "reverse": word[::-1]} for word in words]
    data = f"prompts:1:{write_lines(tmp_path / 'neither.jsonl', rows)}"
    flags = [*flags, "--train_datasets", data, "--per_device_prompt_batch_size", "4"]
    flags += ["--num_return_sequences", "2", "--max_steps", "1", "--aggregation", "tche"]
    flags += ["--actor_weight_decay", "0"]
    trainer = grpo_trainer(flags)
    parameters = list(trainer.panacea.policy.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    trainer.train()
    (line,) = map(json.loads, (tmp_path / "out/metrics.jsonl").open())
    assert (line["train/reward"], line["train/without_reward"]) == (0.0, 1.0)
    assert "train/reward_one" not in line
    assert line["train/groups_without_spread"] == 4
    assert all(map(torch.equal, parameters, before))
