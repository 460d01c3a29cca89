"""The critic on the policy's own backbone: two adapters that know nothing of each other."""

from __future__ import annotations

import shutil

import pytest
import torch

from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device
from tests.algorithms.helpers import ScoredBy, ppo_trainer
from tests.rewards.test_loading import write_classifier
from tests.tiny import tiny_tokenizer


@pytest.fixture
def rule_flags(ppo_flags, rule_rewards):
    """A short run with two rules for rewards."""
    return [*ppo_flags, "--reward_models", *rule_rewards, "--max_length", "24"]


def test_one_backbone_in_all(rule_flags):
    trainer = ppo_trainer(rule_flags)
    actor, critic = trainer.actor_model.module, trainer.reward_critic_model.module
    frozen = {id(p) for m in (actor, critic) for p in m.parameters() if not p.requires_grad}
    assert len(frozen) == sum(not p.requires_grad for p in actor.parameters())
    trained = [{n: p for n, p in m.named_parameters() if p.requires_grad} for m in (actor, critic)]
    assert not {*map(id, trained[0].values())} & {*map(id, trained[1].values())}
    assert all("lora_" in name for name in trained[0])
    heads = [name for name in trained[1] if "lora_" not in name]
    assert heads == ["score_head.weight", "score_head.bias"]


def test_recomputed_activations_give_the_same_update(rule_flags, tmp_path):
    results = []
    for extra in ([], ["--actor_gradient_checkpointing", "--critic_gradient_checkpointing"]):
        folder = tmp_path / f"run{len(results)}"
        trainer = ppo_trainer([*rule_flags, *extra, "--output_dir", str(folder)])
        torch.manual_seed(0)
        trainer.train()
        adapters = trainer.panacea.adapters.values()
        results.append([p.detach().clone() for a in adapters for p in a.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))
    assert any(p.abs().max() > 1e-4 for p in results[0] if p.numel() == 1)  # s has moved


def test_reward_models_with_other_tokens_leave_the_critic_to_the_policy(
    ppo_flags, reward_models, tmp_path
):
    others = []
    for name, path in reward_models.items():
        shutil.copytree(path, tmp_path / name)
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["something"])
        tokenizer.save_pretrained(tmp_path / name)
        others.append(f"{name}={tmp_path / name}")
    trainer = ppo_trainer([*ppo_flags, "--reward_models", *others])
    frozen = {id(p) for p in trainer.actor_model.module.parameters()}
    critic = trainer.reward_critic_model.module
    assert all(id(p) in frozen for p in critic.backbone.parameters() if not p.requires_grad)


def test_two_objectives_of_one_classifier(ppo_flags, tmp_path):
    """It reads the policy's tokens, but no critic stands on it: it might not be causal."""
    folder = write_classifier(tmp_path / "model", "bert", tiny_tokenizer())
    models = [f"helpful={folder}#kind", f"harmless={folder}#toxic"]
    trainer = ppo_trainer([*ppo_flags, "--reward_models", *models, "--preference_scope", "sample"])
    rewards = trainer.rewards
    assert len(rewards.models) == 1
    trainer.train()
    seen = []
    trainer.rewards = ScoredBy(trainer, lambda one: seen.append(one) or rewards(one))
    (batch,) = trainer.split_rl_micro_batches(
        to_device(next(iter(trainer.prompt_only_dataloader)), own_device())
    )
    logits = rewards.models[0].scores(seen[0])
    assert torch.equal(batch["rewards"], logits[:, [1, 0]])
    assert trainer.reward_critic_model.module.backbone is not rewards.models[0].model
