"""What is noted of a run, and the tiny world it happens in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.algorithms.dpo.trainer import rows_of_pairs
from safe_rlhf_panacea.base.distributed import own_device
from safe_rlhf_panacea.base.trainers.supervised import to_device
from safe_rlhf_panacea.regression.observing import observe
from safe_rlhf_panacea.regression.tiny_runs import flags_of
from safe_rlhf_panacea.regression.tiny_world import build_tiny_world, fill
from safe_rlhf_panacea.regression.trace import DealtPreferences, make_trainer, trace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_tiny_world(tmp_path_factory.mktemp("world"))


def test_the_world_is_the_same_bytes_whatever_torch_draws(world, tmp_path):
    torch.manual_seed(5)
    again = build_tiny_world(tmp_path)
    pairs = zip(
        [world.base, *world.rewards.values()], [again.base, *again.rewards.values()], strict=True
    )
    for one, other in pairs:
        for file in one.iterdir():
            assert file.read_bytes() == (other / file.name).read_bytes(), file.name
    for name in ("pairs", "gaps", "prompts", "even_prompts"):
        assert getattr(world, name).read_bytes() == getattr(again, name).read_bytes()


def test_fill_depends_on_seed_and_name_and_leaves_vectors_alone():
    tensors = {name: torch.zeros(50, 16) for name in ("a", "b")} | {"bias": torch.zeros(3)}
    fill(tensors.items(), seed=1)
    other = torch.zeros(50, 16)
    fill([("a", other)], seed=2)
    assert not torch.equal(tensors["a"], tensors["b"])
    assert not torch.equal(tensors["a"], other)
    assert tensors["a"].std().item() == pytest.approx(1 / 4, rel=0.1)
    assert not tensors["bias"].any()


def test_the_adapter_starts_from_the_same_numbers_whatever_the_seed(world, tmp_path):
    starts = []
    for seed in ("1", "2"):
        flags = flags_of("ppo", world, tmp_path / seed, ["--seed", seed])
        trainer = make_trainer("ppo", flags)
        critic = trainer.reward_critic_model.module.adapter
        starts.append([*trainer.panacea.policy.parameters(), *critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*starts, strict=True))
    matrices = torch.cat([p.flatten() for p in starts[0] if p.dim() == 2])
    assert matrices.std().item() == pytest.approx(0.02, rel=0.05)


def test_dealt_preferences_do_not_care_how_they_are_asked_for():
    whole, halves = DealtPreferences(16), DealtPreferences(16)
    rows = whole.draw(16)
    assert torch.equal(rows, torch.cat([halves.draw(8), halves.draw(8)]))
    assert torch.allclose(rows.sum(dim=-1), torch.ones(16))
    assert np.ptp(rows[:, 0].numpy()) > 0.5


@pytest.mark.parametrize("zero_stage", ["0", "2"])
def test_the_norm_is_that_of_the_unclipped_gradient(zero_stage, world, tmp_path):
    """A loss so large that clipping at 1 bites; the gradient of every batch by autograd."""
    extra = ["--scale_coeff", "3", "--max_steps", "2", "--zero_stage", zero_stage]
    trainer = make_trainer("dpo", flags_of("dpo", world, tmp_path / "by-hand", extra))
    batch = to_device(next(iter(trainer.train_dataloader)), own_device())
    preference = trainer.panacea.source.draw(8)
    trainer.model = trainer.model.module  # the engine wants its own backward pass
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    with trainer.panacea.at(preference, rows_of_pairs(preference)):
        gradients = torch.autograd.grad(trainer.loss(**batch)["loss"], trained)
    expected = sum(g.double().square().sum().item() for g in gradients) ** 0.5
    flags = flags_of("dpo", world, tmp_path / "traced", extra)
    series = trace("dpo", flags, steps=1).series
    assert expected > 2
    assert series["gradient norm of the model"] == [pytest.approx(expected, rel=1e-5)]
    assert series["λ_helpful"] == [pytest.approx(preference[0, 0].item(), abs=1e-9)]


def test_under_accumulation_there_is_one_norm_for_each_update(world, tmp_path):
    extra = ["--gradient_accumulation_steps", "2", "--max_steps", "4"]
    series = trace("dpo", flags_of("dpo", world, tmp_path / "run", extra)).series
    assert len(series["loss"]) == 4
    assert len(series["gradient norm of the model"]) == 2


def test_tokens_are_noted_by_place_and_id(world, tmp_path):
    trainer = make_trainer("ppo", flags_of("ppo", world, tmp_path / "run", []))
    series = observe(trainer, "ppo")
    ids = torch.tensor([[1, 5, 7], [1, 6, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    (observer,) = trainer.observers
    observer.rolled_out({"input_ids": ids, "attention_mask": mask})
    assert series["tokens"] == [1 * 1 + 2 * 5 + 3 * 7 + 4 * 1 + 5 * 6]
