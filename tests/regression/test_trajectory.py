"""The recorded steps: that they repeat, and that a constant wrong by one per cent is seen."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.adapter import AdapterConfig
from safe_rlhf_panacea.base.algorithms import ppo as base_ppo
from safe_rlhf_panacea.base.algorithms.dpo import DPOTrainer
from safe_rlhf_panacea.regression import equivalences, references, trajectory
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.suites import Options
from safe_rlhf_panacea.regression.tiny_world import build_tiny_world

STEPS = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def sound(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return {name: trajectory.measure(name, world, folder, STEPS) for name in ("dpo", "ppo")}


def fallen_out(name, sound, world, folder):
    """What of a run today falls out of the sound one's tolerances, by series."""
    measured = trajectory.measure(name, world, folder, STEPS)
    tolerances = trajectory.tolerances_of(sound[name])
    checks = trajectory.compare(name, sound[name], measured, tolerances)
    return {check.what.split(",")[0]: check for check in checks if not check.same}


@pytest.mark.parametrize("name", ["dpo", "ppo"])
def test_the_same_code_gives_the_same_steps(name, sound, world, tmp_path):
    assert not fallen_out(name, sound, world, tmp_path)
    assert len(sound[name]["λ_helpful"]) == STEPS
    assert max(map(abs, sound["dpo"]["reward_margin"][1:])) > 1e-3  # it has begun to learn


def make_factor_wrong(monkeypatch):
    wrong = property(lambda config: 1.01 * config.lora_scaling / config.lora_dim)
    monkeypatch.setattr(AdapterConfig, "factor", wrong)


@pytest.mark.parametrize("name", ["dpo", "ppo"])
def test_a_factor_of_the_adapter_wrong_by_one_per_cent(name, sound, world, tmp_path, monkeypatch):
    make_factor_wrong(monkeypatch)
    found = fallen_out(name, sound, world, tmp_path)
    trained = "model" if name == "dpo" else "actor"
    norm = found[f"gradient norm of the {trained}"]
    assert abs(norm.difference) > 10 * norm.tolerance


def test_beta_of_dpo_wrong_by_one_per_cent(sound, world, tmp_path, monkeypatch):
    right = DPOTrainer.__init__

    def wrong(self, args, *configs):
        args.scale_coeff *= 1.01
        right(self, args, *configs)

    monkeypatch.setattr(DPOTrainer, "__init__", wrong)
    found = fallen_out("dpo", sound, world, tmp_path)
    norm = found["gradient norm of the model"]
    assert abs(norm.difference) > 10 * norm.tolerance
    assert "reward_margin" in found


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 0.94)])
def test_a_constant_of_the_advantage_wrong_by_one_per_cent(
    gamma, gae_lambda, sound, world, tmp_path, monkeypatch
):
    right = base_ppo.generalized_advantages

    def wrong(values, rewards, mask, *_):
        return right(values, rewards, mask, gamma, gae_lambda)

    monkeypatch.setattr(base_ppo, "generalized_advantages", wrong)
    found = fallen_out("ppo", sound, world, tmp_path)
    for series in ("actor_loss", "reward_critic_loss", "gradient norm of the actor"):
        assert abs(found[series].difference) > 10 * found[series].tolerance


def test_tolerances_are_relative_to_the_largest_number_but_for_lambda_and_tokens():
    found = trajectory.tolerances_of({"loss": [0.5, -2.0], "λ_a": [0.3], "tokens": [7e6]})
    assert found == {"loss": pytest.approx(2e-4), "λ_a": 1e-7, "tokens": 0.0}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """References of two steps, of one run, and one equivalence."""
    monkeypatch.setattr(references, "git_state", lambda: {"commit": "0", "modified": False})
    monkeypatch.setattr(trajectory, "RECORDED", {"dpo": ["--max_steps", "2"]})
    pair = next(e for e in equivalences.EQUIVALENCES if e.name.startswith("gradient checkpointing"))
    monkeypatch.setattr(equivalences, "EQUIVALENCES", (pair,))
    options = Options(tmp_path / "references", tmp_path / "recording")
    assert [path.stem for path in trajectory.record(options)] == ["dpo"]
    return tmp_path / "references"


def test_record_then_run(recorded, tmp_path):
    checks = trajectory.run(Options(recorded, tmp_path / "today"))
    assert {check.reference for check in checks} == {"trajectory/dpo", "trajectory/equivalences"}
    assert all(check.same for check in checks)
    assert any(check.what.startswith("gradient norm of the model, step") for check in checks)


def test_a_reference_of_other_flags_or_none_is_not_compared_with(recorded, tmp_path):
    file = recorded / "trajectory" / "dpo.json"
    reference = json.loads(file.read_text(encoding="utf-8"))
    reference["values"]["flags"][-1] = "3"
    file.write_text(json.dumps(reference), encoding="utf-8")
    with pytest.raises(CannotRun, match="other flags"):
        trajectory.run(Options(recorded, tmp_path / "today"))
    file.unlink()
    with pytest.raises(CannotRun, match="no reference"):
        trajectory.run(Options(recorded, tmp_path / "today"))
