"""Noting what a trainer does, step by step, without changing it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

LOGGED = {
    "dpo": ("loss", "loss_helpful", "loss_harmless", "better_sample_reward", "reward_margin", "lr"),
    "ppo": (
        *("actor_loss", "reward_critic_loss", "reward", "reward_helpful", "reward_harmless"),
        *("reward_with_kl_penalty", "reward_advantage", "reward_return", "reward_value"),
        *("kl_divergence", "mean_generated_length", "actor_lr", "reward_critic_lr"),
    ),
}


def _watch_norms(engine: Any, norms: list[float]) -> None:
    """Note the norm of all trained gradients at every update, before they are clipped.

    Without ZeRO they lie in the parameters between the backward pass, which averages them over the
    processes, and the step, which clips them. ZeRO 1 and 2 move them into partitions of their own:
    there it is the engine's ``get_global_grad_norm()``, which without ZeRO is None.
    """
    step = engine.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        updates = engine.is_gradient_accumulation_boundary()
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        own = torch.nn.utils.get_total_norm(gradients) if gradients else None
        result = step(*args, **kwargs)
        if updates:
            sharded = engine.zero_optimization()
            norms.append(float(engine.get_global_grad_norm() if sharded else own))
        return result

    engine.step = watched


def _watch_log(trainer: Any, algorithm: str, series: dict[str, list[float]]) -> None:
    log = trainer.logger.log

    def watched(metrics: dict[str, float], step: int) -> None:
        for name in LOGGED[algorithm]:
            series[name].append(float(metrics[f"train/{name}"]))
        for name in trainer.panacea.objectives:
            series[f"λ_{name}"].append(float(metrics[f"train/preference_{name}"]))
        log(metrics, step=step)

    trainer.logger.log = watched


def _watch_responses(trainer: Any, sums: list[float]) -> None:
    """Σ position · id of all that was sampled: whole numbers, equal only for equal tokens."""
    post_rollout = trainer.post_rollout

    def watched(prompt: Any, sequence: Any, attention_mask: Any) -> Any:
        positions = torch.arange(1, sequence.numel() + 1).view_as(sequence)
        sums.append(float((sequence.cpu() * attention_mask.cpu() * positions).sum()))
        return post_rollout(prompt, sequence, attention_mask=attention_mask)

    trainer.post_rollout = watched


def watch(trainer: Any, algorithm: str) -> dict[str, list[float]]:
    """Note every step of a trainer from now on."""
    series: dict[str, list[float]] = defaultdict(list)
    _watch_log(trainer, algorithm, series)
    for name, engine in trainer.checkpoint_engines().items():
        _watch_norms(engine, series[f"gradient norm of the {name}"])
    if algorithm == "ppo":
        _watch_responses(trainer, series["tokens"])
    return series
