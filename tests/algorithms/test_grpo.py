"""Panacea-GRPO: groups, their λ, what is counted, and that it learns."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.responses import Responses
from tests.algorithms.helpers import ScoredBy, grpo_trainer
from tests.algorithms.test_ppo import count_letter, prompt_batch


def perturb(trainer):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.panacea.policy.parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def test_a_micro_batch_holds_whole_groups_at_their_prompts_preference(grpo_flags):
    trainer = grpo_trainer(
        [*grpo_flags, "--preference_scope", "sample", "--per_device_train_batch_size", "8"]
    )
    batches = trainer.of_update(trainer.split_rl_micro_batches(prompt_batch(trainer)))
    assert [batch["input_ids"].size(0) for batch in batches] == [8, 8]
    prompts, preferences = set(), set()
    for batch in batches:
        for first in (0, 4):
            group = slice(first, first + 4)
            prompt = batch["input_ids"][group, : batch["prompt"].size(1)]
            assert torch.equal(prompt, batch["prompt"][group])
            for rows in (prompt, batch["preference"][group], batch["weights"][group]):
                assert (rows == rows[0]).all()
            prompts.add(tuple(prompt[0].tolist()))
            preferences.add(tuple(batch["preference"][first].tolist()))
            assert batch["advantages"][group].sum().item() == pytest.approx(0, abs=1e-4)
    assert len(preferences) == 4
    assert len(prompts) == 4


def test_groups_without_spread_are_counted_and_teach_nothing(grpo_flags):
    trainer = grpo_trainer([*grpo_flags, "--kl_coeff", "0"])
    perturb(trainer)

    def rewards(responses):
        found = torch.ones(16, 2)
        found[4:8] = torch.randn(4, 2)  # one group has some
        return found

    trainer.rewards = ScoredBy(trainer, rewards)
    (batch,) = trainer.of_update(trainer.split_rl_micro_batches(prompt_batch(trainer)))
    assert batch["advantages"][4:8].ne(0).all()
    assert batch["advantages"].count_nonzero() == 4
    info = trainer.rl_step(batch)
    assert info["train/groups_without_spread"] == 3
    before = [p.detach().clone() for p in trainer.panacea.policy.parameters()]
    batch["advantages"] = torch.zeros(16)
    trainer.actor_model.optimizer.param_groups[0]["weight_decay"] = 0.0
    trainer.actor_model.optimizer.state.clear()
    trainer.rl_step(batch)
    after = trainer.panacea.policy.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_there_is_one_backbone_and_no_critic(grpo_flags):
    rules = "safe_rlhf_panacea.reward_functions:concise?max_length="
    models = [f"short={rules}2", f"shorter={rules}1"]
    trainer = grpo_trainer([*grpo_flags, "--reward_models", *models])
    assert list(trainer.checkpoint_engines()) == ["actor"]
    assert trainer.rewards.models == []
    trainer.train()
    assert trainer.global_step == 2


def test_old_log_probabilities_are_kept_where_they_are_needed(grpo_flags, tmp_path):
    kept = {}
    for extra in ([], ["--kl_in", "reward"], ["--update_iters", "2"]):
        folder = tmp_path / f"run{len(kept)}"
        trainer = grpo_trainer([*grpo_flags, "--output_dir", str(folder), *extra])
        (batch,) = trainer.split_rl_micro_batches(prompt_batch(trainer))
        kept[" ".join(extra)] = "log_probs" in batch
    assert kept == {"": False, "--kl_in reward": True, "--update_iters 2": True}


def test_it_learns_a_front_from_conflicting_rewards(grpo_flags):
    trainer = grpo_trainer(
        [
            *(*grpo_flags, "--max_steps", "60", "--preference_scope", "sample", "--equal_steps"),
            *("--preference_sampler", "stratified", "--per_device_train_batch_size", "64"),
            *("--per_device_prompt_batch_size", "16", "--kl_coeff", "0.05"),
            *("--actor_lr", "2e-3", "--max_length", "20"),
        ]
    )
    scorers = [count_letter(trainer, "a"), count_letter(trainer, "b")]
    trainer.rewards = RewardEnsemble(trainer.args.reward_specs, scorers)
    trainer.train()
    batch = prompt_batch(trainer)
    counts = {}
    for vector in ((1.0, 0.0), (0.0, 1.0)):
        with trainer.panacea.at(torch.tensor([vector]), shared=True):
            sequences, mask = trainer.generate(batch)
        counts[vector] = trainer.rewards(Responses(sequences, mask, 0)).mean(dim=0).tolist()
    assert counts[1.0, 0.0][0] > 2 * counts[1.0, 0.0][1] + 1
    assert counts[0.0, 1.0][1] > 2 * counts[0.0, 1.0][0] + 1
