"""Panacea-PPO: λ, rewards and losses against float64 computations, and that it learns."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device, unwrap
from safe_rlhf_panacea.forward import PassOptions
from safe_rlhf_panacea.forward.passes import pass_options
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.responses import Responses
from tests.algorithms.helpers import ScoredBy, ppo_trainer


def prompt_batch(trainer):
    return to_device(next(iter(trainer.prompt_only_dataloader)), own_device())


def perturb(trainer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    modules = (trainer.actor_model.module, trainer.reward_critic_model.module)
    with torch.no_grad():
        for module in modules:
            for name, parameter in module.named_parameters():
                if "lora_" in name and parameter.dim() == 1:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def test_on_policy_the_first_ratio_is_one_and_equals_the_stored_way(ppo_flags, tmp_path):
    infos = []
    for once in (True, False):
        folder = tmp_path / str(once)
        trainer = ppo_trainer([*ppo_flags, "--output_dir", str(folder)])
        perturb(trainer)
        assert trainer.on_policy
        trainer.used_once = once
        torch.manual_seed(0)
        (batch,) = trainer.split_rl_micro_batches(prompt_batch(trainer))
        assert ("log_probs" in batch) == (not once)
        before = dict(batch)
        infos.append(trainer.rl_step(batch))
        assert batch.keys() == before.keys()
        assert all(batch[name] is value for name, value in before.items())
    for key, value in infos[0].items():
        assert value == pytest.approx(infos[1][key], abs=1e-5), key


@pytest.mark.parametrize("once", [True, False])
def test_actor_and_critic_never_hold_a_graph_both(once, ppo_flags, monkeypatch):
    trainer = ppo_trainer(ppo_flags)
    trainer.used_once = once
    order = []
    for role, engine in {
        "actor": trainer.actor_model,
        "critic": trainer.reward_critic_model,
    }.items():
        # Engines are called with gradients in training steps only.
        engine.register_forward_hook(
            lambda *_, role=role: (
                order.append(f"{role} forward") if torch.is_grad_enabled() else None
            )
        )
        backward = engine.backward
        monkeypatch.setattr(
            engine,
            "backward",
            lambda loss, role=role, backward=backward: (
                order.append(f"{role} backward"),
                backward(loss),
            ),
        )
    (batch,) = trainer.split_rl_micro_batches(prompt_batch(trainer))
    assert order == []
    trainer.rl_step(batch)
    kinds = [step for step, before in zip(order, [None, *order], strict=False) if step != before]
    assert kinds == ["actor forward", "actor backward", "critic forward", "critic backward"]


def test_tchebycheff_uses_a_running_ideal_point(ppo_flags):
    trainer = ppo_trainer([*ppo_flags, "--aggregation", "tche"])
    scores = iter([torch.tensor([[1.0, 4.0], [3.0, 0.0]]), torch.tensor([[2.0, 1.0], [5.0, 2.0]])])
    trainer.rewards = ScoredBy(trainer, lambda responses: next(scores))
    with trainer.panacea.at(torch.tensor([[0.5, 0.5]] * 2)):
        first = trainer.score(torch.zeros(2, 1), None, 0)["reward"]
        assert first.tolist() == [-1.0, -2.0]  # z = (3, 4): shortfalls (2, 0) and (0, 4), halved
        second = trainer.score(torch.zeros(2, 1), None, 0)["reward"]
        assert second.tolist() == [-1.5, -1.0]  # z = (5, 4): (3, 3) and (0, 2), halved
    assert trainer.training_state().panacea["ideal_point"]["best"].tolist() == [5.0, 4.0]


def count_letter(trainer, letter):
    token = trainer.tokenizer.convert_tokens_to_ids(letter)

    def score(responses):
        return (responses.input_ids.eq(token) & responses.attention_mask).float().sum(dim=-1)

    return score


def test_it_learns_a_front_from_conflicting_rewards(ppo_flags):
    trainer = ppo_trainer(
        [
            *ppo_flags,
            *("--max_steps", "100", "--preference_scope", "sample", "--whiten_advantages"),
            *("--per_device_train_batch_size", "32", "--per_device_prompt_batch_size", "32"),
            *("--kl_coeff", "0.05", "--actor_lr", "2e-3", "--critic_lr", "5e-3"),
            *("--critic_lr_scheduler_type", "cosine", "--max_length", "20"),
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


def test_several_responses_per_prompt_share_the_prompts_preference(ppo_flags):
    trainer = ppo_trainer(
        [*ppo_flags, "--num_return_sequences", "2", "--preference_scope", "sample"]
    )
    batches = trainer.split_rl_micro_batches(prompt_batch(trainer))
    assert len(batches) == 2
    assert torch.equal(batches[0]["preference"], batches[1]["preference"])
    width = batches[0]["prompt"].size(1)
    assert torch.equal(batches[0]["input_ids"][:, :width], batches[1]["input_ids"][:, :width])


@pytest.mark.usefixtures("no_page")
def test_evaluation_at_the_end_of_every_epoch_the_last_one_too(ppo_flags, prompts):
    flags = [*ppo_flags, "--need_eval", "--eval_datasets", f"prompts:4/-1:{prompts}"]
    flags += ["--train_datasets", f"prompts:0.25:{prompts}", "--epochs", "2"]
    flags += ["--eval_grid_step", "1"]
    position = flags.index("--max_steps")
    trainer = ppo_trainer(flags[:position] + flags[position + 2 :])
    calls, original = [], trainer.eval
    trainer.eval = lambda: calls.append((trainer.global_step, original())) or {}
    trainer.train()
    assert [step for step, _ in calls] == [0, 2, 4]
    assert {"eval/reward_helpful", "eval/reward_harmless"} <= set(calls[0][1])


def test_every_model_is_gone_through_as_the_flags_say(ppo_flags):
    flags = ["--max_tokens_per_pass", "64", "--share_prefixes", "false"]
    trainer = ppo_trainer([*ppo_flags, *flags])
    critic, other = trainer.reward_critic_model, trainer.rewards.models[1].model
    for model in (trainer.actor_model, unwrap(critic).reward_model.backbone, other.backbone):
        assert pass_options(model) == PassOptions(64, share_prefixes=False)
