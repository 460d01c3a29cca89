"""Panacea-GRPO's numbers against plain loops in float64: weights, advantages, gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device
from tests.algorithms import plain_grpo
from tests.algorithms import plain_ppo as plain
from tests.algorithms.helpers import grpo_trainer
from tests.algorithms.test_ppo_numbers import close, trained_parameters, watch_gradients

KL, CLIP, MU, PTX_COEFF, GROUP = 0.3, 0.1, 0.2, 3.0, 4
CASES = [
    ("normalize_then_sum", "ls", "batch", "loss", False),
    ("normalize_then_sum", "ls", "sample", "reward", True),
    ("sum_then_normalize", "tche", "batch", "loss", False),
    ("normalize_then_sum", "stche", "sample", "loss", True),
    ("sum_then_normalize", "stche", "batch", "reward", False),
    ("normalize_then_sum", "tche", "sample", "loss", False),
]


def trainer_of(grpo_flags, prompts, case, *extra):
    advantage, aggregation, scope, kl_in, equal_steps = case
    smooth = ["--smooth_mu", str(MU)] if aggregation == "stche" else []
    trainer = grpo_trainer(
        [
            *grpo_flags,
            *("--train_datasets", f"prompts:1:{prompts}", "--max_length", "24"),
            *("--advantage", advantage, "--aggregation", aggregation, *smooth),
            *("--preference_scope", scope, "--kl_in", kl_in, "--kl_coeff", str(KL)),
            *("--equal_steps", str(equal_steps), "--clip_range_ratio", str(CLIP)),
            *extra,
        ]
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.actor_model.module.named_parameters():
            if "lora_" in name and parameter.dim() == 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return trainer


def rolled_out(batches, actor, weights, case):
    """Responses of one update with their rewards, the objectives' weights and the advantages."""
    advantage, aggregation, scope, kl_in, equal_steps = case
    rows = [row for batch in batches for row in plain.rows_of(batch)]
    with torch.no_grad():
        old = [
            plain.log_probs(plain.at_preference(weights.base, actor, row.preference), row)
            for row in rows
        ]
        reference = [plain.log_probs(weights.base, row) for row in rows]
        rewards = weights.score(rows)
    groups = rewards.view(-1, GROUP, 2)
    ideal = rewards.max(dim=0).values.tolist()
    means = groups.mean(dim=1) if scope == "sample" else rewards.mean(dim=0).expand(len(groups), 2)
    w = [
        plain_grpo.weights_at(mean, row.preference.tolist(), aggregation, ideal, MU)
        for mean, row in zip(means.tolist(), rows[::GROUP], strict=True)
    ]
    if kl_in == "reward":
        kl = torch.stack([(a - b).sum() for a, b in zip(old, reference, strict=True)])
        groups = (rewards - KL * kl[:, None]).view(-1, GROUP, 2)
    if advantage == "sum_then_normalize":
        found = plain_grpo.of_sums(groups.tolist(), w)
    else:
        found = plain_grpo.of_each(groups.tolist(), w, equal_steps)
    return SimpleNamespace(
        rows=rows,
        old=old,
        reference=reference,
        rewards=rewards,
        weights=w,
        advantages=[a for group in found for a in (group or [0.0] * GROUP)],
    )


def expected_loss(rollout, actor, weights, kl_in, which=slice(None), tokens=None):
    """The loss of some rows at today's parameters, and whether the clip bites."""
    total, count, bites = 0.0, 0, False
    rows = zip(
        rollout.rows[which],
        rollout.old[which],
        rollout.reference[which],
        rollout.advantages[which],
        strict=True,
    )
    for row, old, reference, advantage in rows:
        new = plain.log_probs(plain.at_preference(weights.base, actor, row.preference), row)
        for t in range(len(new)):
            ratio = (new[t] - old[t]).exp()
            bounded = ratio.clamp(1 - CLIP, 1 + CLIP)
            total = total - torch.min(ratio * advantage, bounded * advantage)
            if kl_in == "loss":
                d = reference[t] - new[t]
                total = total + KL * (d.exp() - d - 1)
            count, bites = count + 1, bites or bool(ratio != bounded)
    return total / (count if tokens is None else tokens), bites


@pytest.mark.parametrize("case", CASES, ids=[" ".join(map(str, case)) for case in CASES])
def test_gradients_of_two_passes_over_a_rollout(
    grpo_flags, ragged_prompts, texts, weights, monkeypatch, case
):
    ptx = ["--ptx_datasets", f"supervised:1:{texts}", "--ptx_coeff", str(PTX_COEFF)]
    if case == CASES[1]:
        monkeypatch.setattr(plain, "TEMPERATURE", 0.7)
        ptx += ["--temperature", "0.7"]
    trainer = trainer_of(grpo_flags, ragged_prompts, case, "--update_iters", "2", *ptx)
    noted = watch_gradients(trainer.actor_model)
    trainer.set_eval()
    device = own_device()
    prompts = to_device(next(iter(trainer.prompt_only_dataloader)), device)
    assert not prompts["attention_mask"].all()
    (batch,) = trainer.of_update(trainer.split_rl_micro_batches(prompts))
    ptx = to_device(next(iter(trainer.ptx_dataloader)), device)
    rollout = rolled_out([batch], trained_parameters(trainer.actor_model), weights, case)
    assert torch.allclose(batch["rewards"].double(), rollout.rewards, atol=1e-5)
    expected = torch.tensor(rollout.weights).repeat_interleave(GROUP, dim=0)
    assert torch.allclose(batch["weights"], expected, atol=1e-5)
    assert torch.allclose(batch["advantages"], torch.tensor(rollout.advantages), atol=1e-3)
    trainer.set_train()
    bites = []
    for update in range(2):
        actor = trained_parameters(trainer.actor_model)
        loss, bite = expected_loss(rollout, actor, weights, case[3])
        bites.append(bite)
        text = plain.text_loss(weights.base, actor, ptx, batch["preference"])
        info = trainer.rl_step(batch) | trainer.ptx_step(ptx)
        assert info["train/actor_loss"] == pytest.approx(loss.item(), abs=1e-4)
        total = (loss + PTX_COEFF * text) / 2  # of two backward passes, the mean
        close(noted[update], torch.autograd.grad(total, list(actor.values())), list(actor))
    assert bites == [False, True]


def test_micro_batches_of_an_update_are_one_batch(grpo_flags, ragged_prompts, weights):
    """Their statistics are of all four groups, and the gradient is the mean over all tokens."""
    case = CASES[3]
    small = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"]
    trainer = trainer_of(grpo_flags, ragged_prompts, case, *small)
    noted = watch_gradients(trainer.actor_model)
    trainer.set_eval()
    prompts = to_device(next(iter(trainer.prompt_only_dataloader)), own_device())
    batches = trainer.of_update(trainer.split_rl_micro_batches(prompts))
    assert [len(batch["rewards"]) for batch in batches] == [8, 8]
    actor = trained_parameters(trainer.actor_model)
    rollout = rolled_out(batches, actor, weights, case)
    found = torch.cat([batch["advantages"] for batch in batches])
    assert torch.allclose(found, torch.tensor(rollout.advantages), atol=1e-3)
    trainer.set_train()
    loss, _ = expected_loss(rollout, actor, weights, "loss")
    tokens = sum(map(len, rollout.old)) / 2
    for batch, which in zip(batches, (slice(0, 8), slice(8, 16)), strict=True):
        own, _ = expected_loss(rollout, actor, weights, "loss", which, tokens)
        info = trainer.rl_step(batch)
        assert info["train/actor_loss"] == pytest.approx(own.item(), abs=1e-4)
    close(noted[0], torch.autograd.grad(loss, list(actor.values())), list(actor))
