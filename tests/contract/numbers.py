"""What is recorded of Safe-RLHF: a function a kind, which measures either side.

Plain trainers, given weights, given batches and responses. Hyperparameters are such that every
one of them binds: clipping clips, the schedule warms up and decays, gradients accumulate.
"""

from __future__ import annotations

import torch

from tests.contract.scripts import Log, column, follow, given_weights, pairs, rollouts, texts
from tests.contract.sides import make, plain_class

LOSS_FLAGS = (
    *("--kl_coeff", "0.07", "--clip_range_ratio", "0.15", "--clip_range_score", "1.5"),
    *("--clip_range_value", "0.4", "--update_iters", "2"),
)
STEP_FLAGS = (
    *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"),
    *("--kl_coeff", "0.07", "--clip_range_ratio", "0.15", "--clip_range_score", "1.5"),
    *("--clip_range_value", "0.4", "--ptx_coeff", "3"),
    *("--actor_lr", "2e-3", "--critic_lr", "5e-3"),
    *("--actor_lr_scheduler_type", "cosine", "--critic_lr_scheduler_type", "linear"),
    *("--actor_lr_warmup_ratio", "0.3", "--critic_lr_warmup_ratio", "0.2"),
)


def numbers(value):
    """A tensor or a number as a list of numbers."""
    return torch.as_tensor(value).detach().float().flatten().tolist()


def returned(losses, prefix=""):
    """What a DPO loss returns; one accuracy, which the port gives row by row."""
    losses = {**losses, "reward_accuracy": losses["reward_accuracy"].mean()}
    return {f"{prefix}{name}": numbers(value) for name, value in losses.items()}


def logged(log):
    """Everything that was logged, metric by metric."""
    names = {name for line in log.lines for name in line} - {"train/epoch"}
    return {name: column(log, name) for name in sorted(names)}


# -- DPO ------------------------------------------------------------------------------


def dpo_trainer(side, files, folder, extra=()):
    """Policy and reference at different weights."""
    extra = ("--scale_coeff", "0.3", *extra)
    trainer = make(plain_class("dpo", side), "dpo", side, files, folder, extra)
    for engine in (trainer.model, trainer.reference_model):
        given_weights(engine, seed=0)
    given_weights(trainer.model, seed=1, spread=0.2, move=True)
    return trainer


def dpo_loss(side, files, folder):
    """All that the loss returns, with the mended slice and with the original one; gradients."""
    trainer = dpo_trainer(side, files, folder)
    (batch,) = pairs(1)
    losses = trainer.loss(**batch)
    trainer.model.backward(losses["loss"])
    found = returned(losses)
    for name, weight in trainer.model.module.named_parameters():
        found[f"gradient norm of {name}"] = numbers(weight.grad.norm())
    if side == "port":
        vars(trainer.args)["upstream_dpo_slice"] = True
        original = trainer.loss(**batch)
    else:
        original = type(trainer).loss.__wrapped__(trainer, **batch)
    return found | returned(original, "original slice: ")


def dpo_steps(side, files, folder):
    """Ten steps, two to an update."""
    extra = (
        *("--gradient_accumulation_steps", "2", "--lr", "2e-3"),
        *("--lr_scheduler_type", "cosine", "--lr_warmup_ratio", "0.4"),
    )
    trainer = dpo_trainer(side, files, folder, extra)
    trainer.logger = log = Log()
    trainer.train_dataloader = pairs()
    trainer.train()
    return logged(log)


# -- PPO ------------------------------------------------------------------------------


def ppo_trainer(side, files, folder, extra):
    """Policy and reference, critic and reward model at different weights."""
    trainer = make(plain_class("ppo", side), "ppo", side, files, folder, extra)
    given_weights(trainer.actor_reference_model, seed=0)
    given_weights(trainer.actor_model, seed=0)
    given_weights(trainer.actor_model, seed=1, spread=0.1, move=True)
    given_weights(trainer.reward_model, seed=2)
    given_weights(trainer.reward_critic_model, seed=3)
    return trainer


def ppo_rollout(side, files, folder):
    """What is stored with given responses, and each part of the losses made of it."""
    trainer = ppo_trainer(side, files, folder, LOSS_FLAGS)
    ((prompt, sequence, mask),) = rollouts(1)
    with torch.no_grad():
        batch = trainer.post_rollout(prompt["input_ids"], sequence, mask)
    start = prompt["input_ids"].size(1) - 1
    counted = mask[:, 1:][:, start:]
    found = {"reward": numbers(batch["reward"])}
    for name in ("log_probs", "ref_log_probs", "reward_values"):
        found[name] = numbers(batch[name][:, start:][counted])
    return found


def ppo_losses(side, files, folder):
    """KL rewards, advantages, returns and both losses, of drawn values that clipping clips."""
    trainer = ppo_trainer(side, files, folder, LOSS_FLAGS)
    generator = torch.Generator().manual_seed(4)
    start, mask = 3, ragged_mask(generator)
    values, old_values, log_probs, old_log_probs, ref_log_probs = torch.randn(
        5, *mask.shape, generator=generator
    )
    reward = 2 * torch.randn(len(mask), generator=generator)
    rewards = trainer.add_kl_divergence_regularization(
        reward, None, old_log_probs, ref_log_probs, mask
    )
    advantages, returns = trainer.get_advantages_and_returns(old_values, rewards, mask, start)
    cut = mask[:, start:]
    args = (log_probs[:, start:], old_log_probs[:, start:], advantages, cut)
    actor = trainer.actor_loss_fn(*args)
    critic = trainer.critic_loss_fn(values[:, start:], old_values[:, start:], returns, cut)
    return {
        "rewards with KL penalty": numbers(rewards[mask]),
        "advantages": numbers(advantages[cut]),
        "returns": numbers(returns[cut]),
        "actor loss": numbers(actor),
        "critic loss": numbers(critic),
    }


def ragged_mask(generator, rows=8, length=11, start=3):
    ends = torch.randint(start + 1, length + 1, (rows, 1), generator=generator)
    return torch.arange(length) < ends


def ppo_steps(side, files, folder, extra=()):
    """Ten rollouts of two micro-batches, one update each, with PTX."""
    trainer = ppo_trainer(side, files, folder, (*STEP_FLAGS, *extra))
    trainer.logger = log = Log()
    follow(trainer, side, rollouts(), micro=4)
    trainer.ptx_dataloader = texts()
    trainer.ptx_sampler = getattr(trainer, "data_sampler", None)
    trainer.train()
    return logged(log)


def ppo_steps_twice(side, files, folder):
    """Ten rollouts, each gone through twice."""
    return ppo_steps(side, files, folder, ("--update_iters", "2"))


def ppo_steps_apart(side, files, folder):
    """Ten rollouts of two micro-batches, each of which makes an update of its own."""
    return ppo_steps(side, files, folder, ("--gradient_accumulation_steps", "1"))


KINDS = {
    kind.__name__: kind
    for kind in (
        *(dpo_loss, dpo_steps, ppo_rollout, ppo_losses),
        *(ppo_steps, ppo_steps_twice, ppo_steps_apart),
    )
}
