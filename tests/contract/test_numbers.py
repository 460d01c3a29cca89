"""The same numbers from the port and from Safe-RLHF, to 1e-5 in float32."""

from __future__ import annotations

import os

import pytest
import torch

from tests.contract.sides import make, needs_safe_rlhf, plain_class

pytestmark = needs_safe_rlhf
PAIR = ("better_input_ids", "better_attention_mask", "worse_input_ids", "worse_attention_mask")


def pair_of(algorithm, files, tmp_path, extra=()):
    """Both sides' plain trainers on the same files."""
    return [
        make(plain_class(algorithm, side), algorithm, side, files, tmp_path / side, extra)
        for side in ("port", "safe_rlhf")
    ]


def perturb(*models):
    """Move weights the same way on both sides, so that policy and reference differ."""
    for model in models:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def close(ours, theirs, tolerance=1e-5):
    assert ours == pytest.approx(theirs, abs=tolerance, rel=tolerance)


# -- DPO ------------------------------------------------------------------------------


@pytest.fixture
def dpo(files, tmp_path):
    port, theirs = pair_of("dpo", files, tmp_path)
    perturb(port.model.module, theirs.model.module)
    batch = next(iter(port.train_dataloader))
    return port, theirs, {name: batch[name] for name in PAIR}


def test_dpo_loss_with_the_corrected_slice(dpo):
    port, theirs, batch = dpo
    found = port.loss(**batch), theirs.loss(**batch)
    assert abs(found[0]["loss"].item() - 0.6931) > 1e-3
    for name in ("loss", "reward", "better_sample_reward", "worse_sample_reward", "reward_margin"):
        assert torch.allclose(found[0][name], found[1][name], atol=1e-5), name
    close(found[0]["reward_accuracy"].mean().item(), found[1]["reward_accuracy"].item())


def test_dpo_loss_with_the_original_slice_on_both(dpo):
    port, theirs, batch = dpo
    corrected = port.loss(**batch)["loss"].item()
    port.args = port.args.with_(upstream_dpo_slice=True)
    original = type(theirs).loss.__wrapped__  # what the patch dpo_slice has wrapped
    found = port.loss(**batch), original(theirs, **batch)
    assert abs(found[0]["loss"].item() - corrected) > 1e-4
    assert torch.allclose(found[0]["reward_margin"], found[1]["reward_margin"], atol=1e-5)
    close(found[0]["loss"].item(), found[1]["loss"].item())


def test_dpo_gradients(dpo):
    port, theirs, batch = dpo
    for trainer in (port, theirs):
        trainer.model.backward(trainer.loss(**batch)["loss"])
    ours = dict(port.model.module.named_parameters())
    for name, parameter in theirs.model.module.named_parameters():
        assert torch.allclose(ours[name].grad, parameter.grad, atol=1e-5), name


# -- PPO ------------------------------------------------------------------------------


@pytest.fixture
def ppo(files, tmp_path):
    port, theirs = pair_of("ppo", files, tmp_path, ("--update_iters", "2"))
    for trainer in (port, theirs):
        perturb(trainer.actor_model.module)
        perturb(trainer.reward_critic_model.module)
        trainer.set_eval()
    prompts = next(iter(port.prompt_only_dataloader))
    sequences, mask = port.generate(prompts)
    special = torch.tensor([theirs.tokenizer.pad_token_id, theirs.tokenizer.unk_token_id])
    width = prompts["input_ids"].size(1)
    # A token that Safe-RLHF would take for padding, and the port would not, is no token here.
    odd = torch.isin(sequences[:, width:], special) & mask[:, width:]
    sequences[:, width:][odd] = 10
    return port, theirs, (prompts["input_ids"], sequences, mask)


def test_post_rollout(ppo):
    port, theirs, rolled = ppo
    with torch.no_grad():
        ours, other = port.post_rollout(*rolled), theirs.post_rollout(*rolled)
    start = rolled[0].size(1) - 1
    mask = rolled[2][:, 1:][:, start:]
    assert torch.allclose(ours["reward"], other["reward"], atol=1e-5)
    assert ours["reward"].std() > 1e-3
    for name in ("log_probs", "ref_log_probs", "reward_values"):
        difference = (ours[name] - other[name])[:, start:][mask]
        assert difference.abs().max() < 1e-5, name
    assert (ours["log_probs"] - ours["ref_log_probs"]).abs().max() > 1e-2


def scripted(rows=6, length=9, start=3):
    """Values, rewards and masks of responses that end at different places."""
    generator = torch.Generator().manual_seed(0)
    draws = {
        name: torch.randn(rows, length, generator=generator)
        for name in ("values", "log_probs", "old_log_probs", "ref_log_probs", "old_values")
    }
    ends = torch.randint(start + 1, length + 1, (rows, 1), generator=generator)
    mask = torch.arange(length) < ends
    return draws, torch.randn(rows, generator=generator), mask, start


def test_penalty_advantages_returns_and_losses(ppo):
    port, theirs, _ = ppo
    draws, reward, mask, start = scripted()
    found = []
    for trainer in (port, theirs):
        rewards = trainer.add_kl_divergence_regularization(
            reward, None, draws["old_log_probs"], draws["ref_log_probs"], mask
        )
        advantages, returns = trainer.get_advantages_and_returns(
            draws["old_values"], rewards, mask, start
        )
        actor = trainer.actor_loss_fn(
            draws["log_probs"][:, start:],
            draws["old_log_probs"][:, start:],
            advantages,
            mask[:, start:],
        )
        critic = trainer.critic_loss_fn(
            draws["values"][:, start:], draws["old_values"][:, start:], returns, mask[:, start:]
        )
        cut = mask[:, start:]
        found.append((rewards * mask, advantages * cut, returns * cut, actor, critic))
    for ours, other in zip(*found, strict=True):
        assert ours.abs().max() > 1e-2
        assert torch.allclose(ours, other, atol=1e-5)


def test_rl_and_ptx_steps(ppo):
    port, theirs, rolled = ppo
    infos, weights = [], []
    ptx = next(iter(port.ptx_dataloader))
    for trainer in (port, theirs):
        with torch.no_grad():
            batch = trainer.post_rollout(*rolled)
        trainer.set_train()
        info = trainer.rl_step(batch)
        info |= trainer.ptx_step(
            {name: ptx[name] for name in ("input_ids", "labels", "attention_mask")}
        )
        infos.append(info | {f"again/{k}": v for k, v in trainer.rl_step(batch).items()})
        weights.append(trainer.actor_model.module.lm_head.weight)
    assert set(infos[1]) == set(infos[0])
    for name, value in infos[1].items():
        close(infos[0][name], value, 1e-4 if name.startswith("again/") else 1e-5)
    assert torch.allclose(*weights, atol=1e-4)


def test_the_patches_are_on():
    """What is compared above is the patched Safe-RLHF."""
    from safe_rlhf_panacea.patches import outcomes

    assert not os.environ.get("PANACEA_PATCHES_OFF")
    assert not [outcome for outcome in outcomes() if outcome.state == "failed"]
