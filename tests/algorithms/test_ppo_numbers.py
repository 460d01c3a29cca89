"""Panacea-PPO's numbers against plain loops in float64: gradients, stored values, sampling."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device
from tests.algorithms import plain_ppo as plain
from tests.algorithms.helpers import ppo_trainer

PTX_COEFF, KL, CLIP_RATIO, CLIP_SCORE, CLIP_VALUE = 3.0, 0.3, 0.1, 0.4, 0.05
CASES = [
    ("ls", "batch", False, False, 1.0),
    ("tche", "batch", False, False, 1.0),
    ("ls", "sample", False, False, 0.7),
    ("tche", "sample", True, False, 1.0),
    ("ls", "sample", False, True, 1.0),
]


def wobble(trainer, seed=0):
    """σ, s and the value head away from zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (trainer.actor_model.module, trainer.reward_critic_model.module):
            for name, parameter in module.named_parameters():
                small = "lora_" in name and parameter.dim() == 1
                if small or name.startswith(("value_head", "score_head")):
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(0.2 * noise)


def watch_gradients(engine):
    """Every update's gradients, as they are before clipping, in a list."""
    step, noted = engine.step, []

    def watched():
        if engine.is_gradient_accumulation_boundary():
            found = engine.module.named_parameters()
            noted.append({n: p.grad.double().clone() for n, p in found if p.requires_grad})
        step()

    engine.step = watched
    return noted


def plain_name(name):
    """As in the model that carries the critic; the one on the policy has a score head."""
    return name.removeprefix("reward_model.").replace("score_head", "value_head")


def trained_parameters(engine):
    found = engine.module.named_parameters()
    return {
        plain_name(name): p.detach().double().clone().requires_grad_()
        for name, p in found
        if p.requires_grad
    }


def rolled_out(batch, actor, critic, weights, aggregation):
    """What a rollout stores, from the parameters that drew it."""
    rows = plain.rows_of(batch)
    with torch.no_grad():
        old = [
            plain.log_probs(plain.at_preference(weights.base, actor, row.preference), row)
            for row in rows
        ]
        reference = [plain.log_probs(weights.base, row) for row in rows]
        values = [plain.values(weights.critic, critic, row) for row in rows]
        found = weights.score(rows)
        reward = plain.aggregated(found, rows, aggregation)
    return SimpleNamespace(
        rows=rows, old=old, reference=reference, values=values, rewards=found, reward=reward
    )


def expected_losses(rollout, actor, critic, weights, whiten):
    """Losses of actor and critic at today's parameters, and how often each clip bites."""
    gains, returns, new, values = [], [], [], []
    for i, row in enumerate(rollout.rows):
        per_token = plain.token_rewards(
            rollout.reward[i], rollout.old[i], rollout.reference[i], KL, CLIP_SCORE
        )
        gains.append(plain.advantages(rollout.values[i], per_token))
        returns.append(gains[-1] + rollout.values[i])
        new.append(plain.log_probs(plain.at_preference(weights.base, actor, row.preference), row))
        values.append(plain.values(weights.critic, critic, row))
    used = plain.whitened(gains) if whiten else gains
    ratios = torch.cat(new).sub(torch.cat(rollout.old)).exp()
    moved = torch.cat(values) - torch.cat(rollout.values)
    clips = [(ratios - 1).abs() > CLIP_RATIO, moved.abs() > CLIP_VALUE]
    return (
        plain.actor_loss(new, rollout.old, used, CLIP_RATIO),
        plain.critic_loss(values, rollout.values, returns, CLIP_VALUE),
        [bool(clip.any()) for clip in clips],
    )


def close(found, expected, names):
    """All of a model's gradients, each to 2e-4 of its own size and 2e-6 of the largest."""
    largest = max(g.abs().max() for g in expected)
    assert largest > 0
    assert len(found) == len(expected)
    for name, wanted in zip(names, expected, strict=True):
        error = (found[name] - wanted).abs().max()
        assert error <= 2e-4 * wanted.abs().max() + 2e-6 * largest, (name, error, largest)


def by_rule(rows):
    """Of ``rule_rewards``, at scale 0.2, by token ids: a is 9, the end token 2."""
    found = []
    for row in rows:
        response = row.tokens[row.start :].tolist()
        length = len(response) - response.count(2)
        concise = -1.0 if length < 1 else max(-1.0, 1 + min(0.0, 1 - length / 4))
        found.append([float(9 in response), concise])
    return 0.2 * torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("aggregation", "scope", "whiten", "rules", "temperature"), CASES)
def test_gradients_of_two_passes_over_a_rollout(
    ppo_flags,
    rule_rewards,
    ragged_prompts,
    texts,
    weights,
    monkeypatch,
    aggregation,
    scope,
    whiten,
    rules,
    temperature,
):
    """With ``rules`` the rewards are no models, and the critic stands on the policy's backbone."""
    extra = ["--aggregation", aggregation, "--preference_scope", scope]
    extra += ["--temperature", str(temperature)]
    monkeypatch.setattr(plain, "TEMPERATURE", temperature)
    extra += ["--whiten_advantages"] * whiten
    if rules:
        extra += ["--reward_models", *rule_rewards]
        extra += ["--reward_scales", "helpful=0.2", "harmless=0.2"]
        weights.critic, weights.score = weights.base, by_rule
    trainer = ppo_trainer(
        [
            *ppo_flags,
            *("--train_datasets", f"prompts:1:{ragged_prompts}", "--max_length", "24"),
            *("--ptx_datasets", f"supervised:1:{texts}", "--ptx_coeff", str(PTX_COEFF)),
            *("--kl_coeff", str(KL), "--clip_range_score", str(CLIP_SCORE)),
            *("--clip_range_ratio", str(CLIP_RATIO), "--clip_range_value", str(CLIP_VALUE)),
            *("--per_device_prompt_batch_size", "4", "--per_device_train_batch_size", "4"),
            *("--update_iters", "2", "--critic_lr", "5e-3", *extra),
        ]
    )
    wobble(trainer)
    engines = trainer.actor_model, trainer.reward_critic_model
    noted = [watch_gradients(engine) for engine in engines]
    trainer.set_eval()
    device = own_device()
    prompts = to_device(next(iter(trainer.prompt_only_dataloader)), device)
    assert not prompts["attention_mask"].all()
    (batch,) = trainer.split_rl_micro_batches(prompts)
    ptx = to_device(next(iter(trainer.ptx_dataloader)), device)
    rollout = rolled_out(batch, *map(trained_parameters, engines), weights, aggregation)
    stored = (batch["rewards"], rollout.rewards), (batch["reward"], rollout.reward)
    assert all(torch.allclose(a.double(), b, atol=1e-5) for a, b in stored)
    start = batch["prompt"].size(1) - 1
    old = {"log_probs": rollout.old, "ref_log_probs": rollout.reference}
    for name, expected in (old | {"reward_values": rollout.values}).items():
        for i, row in enumerate(expected):
            found = batch[name][i, start : start + len(row)].double()
            assert torch.allclose(found, row, atol=1e-5), name
    assert (torch.cat(rollout.old) - torch.cat(rollout.reference)).abs().max() > 0.1
    trainer.set_train()
    bites = []
    for update in range(2):
        actor, critic = map(trained_parameters, engines)
        losses = expected_losses(rollout, actor, critic, weights, whiten)
        bites.append(losses[2])
        text = plain.text_loss(weights.base, actor, ptx, batch["preference"])
        info = trainer.rl_step(batch)
        info |= trainer.ptx_step(ptx)
        assert info["train/actor_loss"] == pytest.approx(losses[0].item(), abs=1e-5)
        assert info["train/reward_critic_loss"] == pytest.approx(losses[1].item(), abs=1e-5)
        assert info["train/ptx_loss"] == pytest.approx(text.item(), abs=1e-5)
        total = (losses[0] + PTX_COEFF * text) / 2  # of two backward passes, the mean
        close(noted[0][update], torch.autograd.grad(total, list(actor.values())), list(actor))
        renamed = {plain_name(n): g for n, g in noted[1][update].items()}
        close(renamed, torch.autograd.grad(losses[1], list(critic.values())), list(critic))
    assert bites == [[False, False], [True, True]]  # both clips are in the second pass


def first_tokens(logits, uniform, temperature):
    """The token at which the cumulative distribution exceeds a row's uniform number."""
    cumulative = [(row / temperature).softmax(dim=-1).cumsum(dim=-1) for row in logits]
    return [int((row <= u).sum()) for row, u in zip(cumulative, uniform, strict=True)]


def test_responses_are_drawn_at_the_temperature_of_the_flag(ppo_flags, weights):
    flags = ["--per_device_prompt_batch_size", "32", "--per_device_train_batch_size", "32"]
    trainer = ppo_trainer([*ppo_flags, *flags, "--temperature", "0.4", "--max_length", "32"])
    wobble(trainer)
    actor = trained_parameters(trainer.actor_model)
    trainer.set_eval()
    prompts = to_device(next(iter(trainer.prompt_only_dataloader)), own_device())
    torch.manual_seed(7)
    (batch,) = trainer.split_rl_micro_batches(prompts)
    torch.manual_seed(7)
    uniform = torch.rand(32, 1, dtype=torch.float64)
    composed = plain.at_preference(weights.base, actor, batch["preference"][0].double())
    with torch.no_grad():
        hidden = [
            plain.hidden_states(composed, row.tokens[: row.start])[-1]
            for row in plain.rows_of(batch)
        ]
        logits = [row @ composed["lm_head.weight"].T for row in hidden]
    found = batch["input_ids"][:, batch["prompt"].size(1)].tolist()
    assert found == first_tokens(logits, uniform, 0.4)
    assert found != first_tokens(logits, uniform, 1.0)
