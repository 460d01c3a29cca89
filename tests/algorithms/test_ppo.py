"""Panacea-PPO: λ, rewards and losses against float64 computations, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch

from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device
from safe_rlhf_panacea.forward import PassOptions, log_probs, response_tokens
from safe_rlhf_panacea.forward.passes import pass_options
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.responses import Responses
from tests.algorithms.helpers import ppo_trainer


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


def test_a_rollout_carries_its_preference_and_everything_safe_rlhf_names(ppo_flags):
    trainer = ppo_trainer([*ppo_flags, "--preference_scope", "sample", "--update_iters", "2"])
    (batch,) = trainer.split_rl_micro_batches(prompt_batch(trainer))
    length = batch["input_ids"].size(1)
    assert batch["preference"].shape == batch["rewards"].shape == (8, 2)
    assert batch["reward"].shape == (8,)
    for key in ("log_probs", "ref_log_probs", "reward_values"):
        assert batch[key].shape == (8, length - 1)
    assert batch["attention_mask"].shape == (8, length)
    expected = (batch["preference"] * batch["rewards"]).sum(dim=-1)
    assert torch.allclose(batch["reward"], expected, atol=1e-6)


def test_log_probabilities_belong_to_each_rows_own_preference(ppo_flags):
    trainer = ppo_trainer([*ppo_flags, "--preference_scope", "sample", "--update_iters", "2"])
    perturb(trainer)
    (batch,) = trainer.split_rl_micro_batches(prompt_batch(trainer))
    start = batch["prompt"].size(1) - 1
    for row in range(3):
        trainer.panacea.policy.set_preference(batch["preference"][row])
        with torch.no_grad():
            ids, mask = (batch[key][row : row + 1] for key in ("input_ids", "attention_mask"))
            alone = log_probs(trainer.actor_model, ids, mask, response_tokens(mask, start))
        assert torch.allclose(alone[0], batch["log_probs"][row], atol=1e-5)
    assert not torch.allclose(batch["log_probs"], batch["ref_log_probs"], atol=1e-3)


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


def test_the_critic_with_its_adapter_off_is_the_reward_model(ppo_flags, reward_models):
    trainer = ppo_trainer(ppo_flags)
    perturb(trainer)
    batch = prompt_batch(trainer)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    alone = trainer.load_scorer(str(reward_models["helpful"]), "reward")[0].eval()
    with torch.no_grad():
        expected = alone(ids, attention_mask=mask).end_scores.squeeze(-1)
        with trainer.panacea.at(torch.tensor([[0.2, 0.8]])):
            values = trainer.critic_values(ids, mask)
    assert torch.equal(trainer.rewards(Responses(ids, mask, 0))[:, 0], expected)
    with torch.no_grad():
        trainer.reward_critic_model.module.value_head.weight.fill_(0.1)
        with trainer.panacea.at(torch.tensor([[0.9, 0.1]])):
            other = trainer.critic_values(ids, mask)
        with trainer.panacea.at(torch.tensor([[0.2, 0.8]])):
            again = trainer.critic_values(ids, mask)
    assert values.eq(0).all()  # the value head starts at zero
    assert not torch.allclose(other, again)  # the critic sees λ


def test_backbones_held(ppo_flags):
    trainer = ppo_trainer(ppo_flags)
    assert trainer.actor_reference_model is None
    assert trainer.reward_model is None
    critic = trainer.reward_critic_model.module
    assert critic.reward_model is not trainer.rewards.models[1].model
    assert trainer.rewards.models[0].model.func is trainer.reward_critic_model
    trainable = [n for n, p in critic.named_parameters() if p.requires_grad]
    assert all("lora_" in name or name.startswith("value_head") for name in trainable)


def test_losses_and_kl_against_loops(ppo_flags):
    trainer = ppo_trainer(ppo_flags)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    reward = torch.tensor([2.0, -60.0])
    log_probs = torch.tensor([[-1.0, -2.0, -1.5], [-0.5, 0.0, 0.0]])
    ref = torch.tensor([[-1.5, -1.0, -1.5], [-1.5, 0.0, 0.0]])
    result = trainer.add_kl_divergence_regularization(reward, None, log_probs, ref, mask)
    # kl_coeff 0.02: -0.02 · (0.5, -1, 0), + 2 at the end; second row clipped at -50
    assert result[0].tolist() == pytest.approx([-0.01, 0.02, 2.0], abs=1e-6)
    assert result[1, 0].item() == -50.0
    old = log_probs - torch.log(torch.tensor([[1.5, 0.5, 1.0], [1.1, 1.0, 1.0]]))
    advantages = torch.tensor([[1.0, -1.0, 2.0], [3.0, 0.0, 0.0]])
    loss = trainer.actor_loss_fn(log_probs, old, advantages, mask)
    # row 0: min(1.5, 1.2) + min(-0.5, -0.8) + 2 = 2.4, mean 0.8; row 1: min(3.3, 3.3)
    assert loss.item() == pytest.approx(-(0.8 + 3.3) / 2, abs=1e-5)
    values = torch.tensor([[6.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    old_values = torch.zeros(2, 3)
    returns = torch.tensor([[7.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    critic = trainer.critic_loss_fn(values, old_values, returns, mask)
    # clipped at 5: max(1, 4) = 4 over three tokens; (1)² over one
    assert critic.item() == pytest.approx(0.5 * (4 / 3 + 1) / 2, abs=1e-6)


def test_tchebycheff_uses_a_running_ideal_point(ppo_flags):
    trainer = ppo_trainer([*ppo_flags, "--aggregation", "tche"])
    scores = iter([torch.tensor([[1.0, 4.0], [3.0, 0.0]]), torch.tensor([[2.0, 1.0], [5.0, 2.0]])])
    trainer.rewards = lambda responses: next(scores)
    with trainer.panacea.at(torch.tensor([[0.5, 0.5]] * 2)):
        first = trainer.score(torch.zeros(2, 1), None, 0)["reward"]
        assert first.tolist() == [-1.0, -2.0]  # z = (3, 4): shortfalls (2, 0) and (0, 4), halved
        second = trainer.score(torch.zeros(2, 1), None, 0)["reward"]
        assert second.tolist() == [-1.5, -1.0]  # z = (5, 4): (3, 3) and (0, 2), halved
    assert trainer.training_state().panacea["ideal_point"]["best"].tolist() == [5.0, 4.0]


def test_smooth_tchebycheff_has_the_same_ideal_point(ppo_flags):
    trainer = ppo_trainer([*ppo_flags, "--aggregation", "stche", "--smooth_mu", "0.5"])
    scores = torch.tensor([[1.0, 4.0], [3.0, 0.0]])  # z = (3, 4), gaps halved: (1, 0) and (0, 2)
    trainer.rewards = lambda responses: scores
    with trainer.panacea.at(torch.tensor([[0.5, 0.5]] * 2)):
        found = trainer.score(torch.zeros(2, 1), None, 0)["reward"].tolist()
    expected = [-0.5 * math.log(1 + math.exp(gap / 0.5)) for gap in (1, 2)]
    assert found == pytest.approx(expected, abs=1e-6)


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


def test_a_rule_as_third_objective_is_learnt_at_its_vertex(ppo_flags, reward_models):
    """Two reward models and conciseness: at its vertex the responses become short."""
    concise = "concise=safe_rlhf_panacea.reward_functions:concise?max_length=2,max_reward=1"
    models = [f"{name}={path}" for name, path in reward_models.items()]
    trainer = ppo_trainer(
        [
            *ppo_flags,
            *("--reward_models", *models, concise, "--pref_dim", "3", "--max_steps", "80"),
            *("--preference_scope", "sample", "--whiten_advantages", "--kl_coeff", "0.01"),
            *("--per_device_train_batch_size", "32", "--per_device_prompt_batch_size", "32"),
            *("--actor_lr", "2e-3", "--critic_lr", "5e-3", "--max_length", "24"),
        ]
    )
    assert len(trainer.rewards.models) == 2  # a rule needs no backbone
    batch = prompt_batch(trainer)

    def mean_length():
        with trainer.panacea.at(torch.tensor([[0.0, 0.0, 1.0]]), shared=True):
            _, mask = trainer.generate(batch)
        return mask[:, batch["input_ids"].size(1) :].float().sum(dim=-1).mean().item()

    before = mean_length()
    trainer.train()
    assert mean_length() < 0.6 * before


def test_ptx_steps_double_the_accumulation_and_see_the_rollouts_preference(ppo_flags, texts):
    flags = [*ppo_flags, "--ptx_datasets", f"supervised:1:{texts}", "--max_steps", "2"]
    trainer = ppo_trainer(flags)
    assert trainer.actor_model.gradient_accumulation_steps() == 2
    assert trainer.reward_critic_model.gradient_accumulation_steps() == 1
    trainer.train()
    (batch,) = trainer.split_rl_micro_batches(prompt_batch(trainer))
    ptx = to_device(next(iter(trainer.ptx_dataloader)), own_device())
    trainer.rl_step(batch)
    info = trainer.ptx_step(ptx)
    assert torch.equal(trainer.panacea.latest, batch["preference"])
    assert info["train/ptx_loss"] > 0


def test_several_responses_per_prompt_share_the_prompts_preference(ppo_flags):
    trainer = ppo_trainer(
        [*ppo_flags, "--num_return_sequences", "2", "--preference_scope", "sample"]
    )
    batches = trainer.split_rl_micro_batches(prompt_batch(trainer))
    assert len(batches) == 2
    assert torch.equal(batches[0]["preference"], batches[1]["preference"])
    width = batches[0]["prompt"].size(1)
    assert torch.equal(batches[0]["input_ids"][:, :width], batches[1]["input_ids"][:, :width])


def test_gradient_checkpointing_gives_the_same_update(ppo_flags, tmp_path):
    results = []
    for extra in ([], ["--actor_gradient_checkpointing", "--critic_gradient_checkpointing"]):
        folder = tmp_path / f"run{len(results)}"
        trainer = ppo_trainer([*ppo_flags, *extra, "--output_dir", str(folder)])
        torch.manual_seed(0)
        trainer.train()
        critic = trainer.reward_critic_model.module.adapter
        parameters = [*trainer.panacea.policy.parameters(), *critic.parameters()]
        results.append([p.detach().clone() for p in parameters])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))
    assert any(p.abs().max() > 1e-4 for p in results[0] if p.numel() == 1)  # s has moved


@pytest.mark.usefixtures("no_page")
def test_evaluation_at_the_end_of_every_epoch_the_last_one_too(ppo_flags, prompts):
    evaluation = ["--need_eval", "--eval_datasets", f"prompts:0.25:{prompts}"]
    flags = [*ppo_flags, *evaluation, "--epochs", "2"]
    position = flags.index("--max_steps")
    trainer = ppo_trainer(flags[:position] + flags[position + 2 :])
    calls = []
    original = trainer.eval
    trainer.eval = lambda: calls.append((trainer.global_step, original())) or {}
    trainer.train()
    per_epoch = len(trainer.prompt_only_dataloader)
    assert [step for step, _ in calls] == [0, per_epoch, 2 * per_epoch]
    assert {"eval/reward_helpful", "eval/reward_harmless"} <= set(calls[0][1])


def test_every_model_is_gone_through_as_the_flags_say(ppo_flags):
    flags = ["--max_tokens_per_pass", "64", "--share_prefixes", "false"]
    trainer = ppo_trainer([*ppo_flags, *flags])
    critic, other = trainer.reward_critic_model, trainer.rewards.models[1].model
    for model in (trainer.actor_model, unwrap(critic).reward_model.backbone, other.backbone):
        assert pass_options(model) == PassOptions(64, share_prefixes=False)
