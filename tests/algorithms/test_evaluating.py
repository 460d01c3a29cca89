"""Panacea trainers evaluate a grid of λ on their way, as the evaluation program does after it."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.algorithms.trainer import evaluation_grid
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.fronts.indicators import hypervolume
from safe_rlhf_panacea.fronts.result import FrontResult
from tests.algorithms.conftest import evaluated
from tests.algorithms.helpers import dpo_trainer, ppo_trainer


@pytest.fixture
def shown(ppo_evaluated, no_page, tmp_path):
    """Evaluations of a run of Panacea-PPO, which keep all of their four responses."""
    flags = ["--eval_prompts", "4", "--reward_scales", "harmless=5", "--max_steps", "3"]
    ppo([*ppo_evaluated, *flags])
    return read_evaluations(tmp_path / "out")


def test_ppo_front_against_its_responses_and_distributions(shown):
    last = shown[-1]
    assert last.result.preferences[:, 0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    for point in last.front.points:
        mine = [e for e in last.responses if e["preference"] == point.preference]
        assert len(mine) == 4
        ratios = np.array([entry["log_ratio"] for entry in mine])
        assert point.kl == pytest.approx(ratios.mean(), abs=1e-3)
        assert point.kl_error == pytest.approx(ratios.std(ddof=1) / 2, abs=1e-3)
        rewards = np.array([entry["rewards"] for entry in mine])
        assert point.objectives == pytest.approx(rewards.mean(axis=0), abs=1e-5)
    for one in shown:
        values = np.array(one.distributions)  # size = (N, m, P)
        assert values.shape == (5, 2, 4)
        assert one.front.values == pytest.approx(values.mean(axis=-1), abs=1e-4)
        errors = values.std(axis=-1, ddof=1) / 2
        assert one.front.errors == pytest.approx(errors, abs=1e-4)
        volume = hypervolume(one.result.values, np.array(one.result.reference_point))
        assert one.result.indicators["hypervolume"] == volume
        base = np.array(one.base_distributions)  # size = (m, P)
        assert one.result.base.objectives == pytest.approx(base.mean(axis=-1), abs=1e-4)
        low = base.mean(axis=-1) - 2 * base.std(axis=-1, ddof=1)
        assert one.result.reference_point == pytest.approx(low, abs=0.01)


def test_the_front_starts_as_a_point_and_the_reference_stays(shown):
    first, *others = shown
    assert first.step == 0
    assert np.ptp(first.front.values, axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert [p.kl for p in first.front.points] == pytest.approx([0.0] * 5, abs=1e-5)
    assert first.front.values[0] == pytest.approx(first.result.base.objectives, abs=1e-6)
    assert {one.result.reference_point for one in others} == {first.result.reference_point}
    assert max(abs(p.kl) for p in others[-1].front.points) > 1e-4
    assert first.result.cost.training_seconds < 0.5  # not the evaluation's own
    assert all(v == 0 for entry in first.singular_values for v in entry["sigma"] + entry["s"])
    assert any(v != 0 for v in others[-1].singular_values[0]["s"])


def check_final(tmp_path, flags):
    """The last evaluation of a training beside that of the program, from the same seed."""
    last = read_evaluations(tmp_path / "out")[-1]
    common = ["--adapter", str(tmp_path / "out"), "--grid_step", "0.25", "--progress", "false"]
    # A training reads as many prompts at a time as its rows, eight, have room for.
    common += ["--batch_size", "1", "--output_dir", str(tmp_path / "front")]
    evaluate([*common, *flags])
    mine, result = last.result.to_json(), FrontResult.load(tmp_path / "front").to_json()
    for key in ("kind", "objectives", "axis_labels", "method", "aggregation", "metadata"):
        assert mine[key] == result[key]
    for key in ("reference_point", "hypervolume", "spearman"):
        assert mine[key] == pytest.approx(result[key], abs=1e-4)
    assert mine.keys() == result.keys()
    for point, other in zip(mine["front"], result["front"], strict=True):
        for key, value in point.items():
            assert value == pytest.approx(other[key], abs=1e-4), key
    return last


@pytest.mark.usefixtures("no_page")
def test_dpo_front_is_that_of_the_evaluation_program(dpo_evaluated, pairs, tmp_path):
    dpo([*dpo_evaluated, "--eval_interval", "2"])
    data = ["--datasets", f"pairs:12/-1:{pairs}", "--max_length", "64"]
    last = check_final(tmp_path, data)
    values = np.array(last.distributions)  # size = (N, m, P), β · Δ towards the label
    assert last.front.values == pytest.approx((values > 0).mean(axis=-1))


@pytest.mark.usefixtures("no_page")
def test_ppo_front_is_that_of_the_evaluation_program(ppo_flags, prompts, reward_models, tmp_path):
    ppo([*evaluated(ppo_flags, f"prompts:8/-1:{prompts}"), "--eval_interval", "2"])
    data = ["--datasets", f"prompts:8/-1:{prompts}", "--max_length", "32"]
    models = ["--reward_models", *(f"{name}={path}" for name, path in reward_models.items())]
    last = check_final(tmp_path, [*data, *models])
    assert last.result.metadata["prompts"] > 1


@torch.no_grad()
def test_a_tied_pair_counts_half_in_training_as_in_fronts(dpo_flags):
    """Before the first step policy and reference are one: every margin is 0."""
    trainer = dpo_trainer(dpo_flags)
    with trainer.panacea.at(trainer.panacea.centre, shared=True):
        found = trainer.loss(**next(iter(trainer.train_dataloader)))
    for name in ("helpful", "harmless"):
        assert found[f"accuracy_{name}"].eq(0.5).all() and found[f"accuracy_{name}"].numel() == 8


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_evaluating_does_not_change_the_training(
    algorithm, dpo_flags, ppo_flags, dpo_evaluated, ppo_evaluated, tmp_path
):
    plain, with_fronts = (
        (dpo_flags, dpo_evaluated) if algorithm == "dpo" else (ppo_flags, ppo_evaluated)
    )
    make = dpo_trainer if algorithm == "dpo" else ppo_trainer
    found = []
    for index, flags in enumerate((plain, with_fronts)):
        flags = [*flags, "--output_dir", str(tmp_path / str(index)), "--eval_prompts", "1"]
        trainer = make(flags)
        trainer.train()
        found.append(torch.cat([p.detach().flatten() for p in trainer.panacea.policy.parameters()]))
    assert torch.equal(*found)


@pytest.mark.usefixtures("no_page")
def test_one_prompt_has_no_standard_error(ppo_evaluated, tmp_path):
    ppo([*ppo_evaluated, "--eval_prompts", "1"])
    last = read_evaluations(tmp_path / "out")[-1]
    assert not last.front.errors.any()
    assert [p.kl_error for p in last.front.points] == [0.0] * 5


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_a_policy_that_is_not_finite_costs_a_front_and_not_the_training(
    algorithm, dpo_evaluated, ppo_evaluated, tmp_path, capsys
):
    make, flags = (
        (dpo_trainer, dpo_evaluated) if algorithm == "dpo" else (ppo_trainer, ppo_evaluated)
    )
    trainer = make(flags)
    with torch.no_grad():
        next(iter(trainer.panacea.policy.layers.values())).lora_s.fill_(float("nan"))
    trainer.logger.log(trainer.eval(), step=0)
    assert "step 0: no front: the model's logits are not finite" in capsys.readouterr().out
    assert read_evaluations(tmp_path / "out") == []


@pytest.mark.usefixtures("no_page")
def test_a_baseline_has_one_point(dpo_evaluated, tmp_path, monkeypatch):
    """In a folder below the user's own, whose ~ is expanded once."""
    monkeypatch.setenv("HOME", str(tmp_path))
    dpo([*dpo_evaluated, "--fixed_preference", "1,0", "--output_dir", "~/mine"])
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    last = read_evaluations(tmp_path / "mine")[-1]
    assert last.front.preferences.tolist() == [[1.0, 0.0]]
    assert last.result.method == "discrete_policies"


@pytest.mark.parametrize(
    ("objectives", "points"), [(2, 5), (3, 15), (4, 10), (7, 28), (8, 9), (12, 13)]
)
def test_training_stops_for_few_preference_vectors(objectives, points):
    args = argparse.Namespace(eval_grid_step=None)
    assert evaluation_grid(args, objectives, None).shape == (points, objectives)
    args.eval_grid_step = 0.5
    assert len(evaluation_grid(args, objectives, None)) == math.comb(objectives + 1, 2)
