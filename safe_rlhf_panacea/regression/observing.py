"""Noting what a trainer does, step by step, without changing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.base.engine import gradient_norm
from safe_rlhf_panacea.base.trainers.observer import Observer
from safe_rlhf_panacea.base.trainers.rollout import Rollout

LOGGED = {
    "dpo": ("loss", "loss_helpful", "loss_harmless", "better_sample_reward", "reward_margin", "lr"),
    "ppo": (
        *("actor_loss", "reward_critic_loss", "reward", "reward_helpful", "reward_harmless"),
        *("reward_with_kl_penalty", "reward_advantage", "reward_return", "reward_value"),
        *("kl_divergence", "mean_generated_length", "actor_lr", "reward_critic_lr"),
    ),
}


class StepNotes(Observer):
    """What a trainer does, step by step, as series of numbers by name."""

    def __init__(self, algorithm: str, objectives: Sequence[str]) -> None:
        """Nothing was done so far."""
        self.logged = LOGGED[algorithm]
        self.objectives = objectives
        self.series: dict[str, list[float]] = defaultdict(list)

    def stepped(self, info: dict[str, Any], engines: dict[str, Any]) -> None:
        """Note losses and λ, and at an update the gradients' norms before they are clipped."""
        for name in self.logged:
            self.series[name].append(float(info[f"train/{name}"]))
        for name in self.objectives:
            self.series[f"λ_{name}"].append(float(info[f"train/preference_{name}"]))
        for name, engine in engines.items():
            if (norm := gradient_norm(engine)) is not None:
                self.series[f"gradient norm of the {name}"].append(norm)

    def rolled_out(self, rl_batch: Rollout) -> None:
        """Note Σ position · id of all that was sampled: equal only for equal tokens."""
        tokens = (rl_batch["input_ids"] * rl_batch["attention_mask"]).cpu()
        positions = torch.arange(1, tokens.numel() + 1).view_as(tokens)
        self.series["tokens"].append(float((tokens * positions).sum()))


def observe(trainer: Any, algorithm: str) -> dict[str, list[float]]:
    """Note every step of a trainer from now on."""
    notes = StepNotes(algorithm, trainer.panacea.objectives)
    trainer.observers.append(notes)
    return notes.series
