"""A short training run with the ordinary trainers, and what it did at every step.

``python -m safe_rlhf_panacea.regression.trace ALGORITHM FILE FLAGS...`` is one process of such a
run, for a launcher of several; the first of them writes the trace to FILE.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.base.setup import prepare_run
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.regression.tiny_world import fill

LOGGED = {
    "dpo": ("loss", "loss_helpful", "loss_harmless", "better_sample_reward", "reward_margin", "lr"),
    "ppo": (
        *("actor_loss", "reward_critic_loss", "reward", "reward_helpful", "reward_harmless"),
        *("reward_with_kl_penalty", "reward_advantage", "reward_return", "reward_value"),
        *("kl_divergence", "mean_generated_length", "actor_lr", "reward_critic_lr"),
    ),
}


@dataclass(frozen=True)
class Trace:
    """What a run did.

    Attributes:
        series: name to one number per step; gradient norms have one per update.
        folder: the run's output, with the trained adapter.
    """

    series: dict[str, list[float]]
    folder: Path


class DealtPreferences:
    """λ from a list that knows nothing of batches: row after row, however many are asked for.

    The trainer's own sampler draws anew for every batch, so that one batch of 16 and two of 8 see
    other λ by design. With these, runs that cut their batches differently see the same.
    """

    fixed = None

    def __init__(self, rows: int, seed: int = 0) -> None:
        """Draw ``rows`` vectors of two objectives."""
        first = np.random.RandomState(seed).random_sample(rows).astype(np.float32)
        self._rows = torch.from_numpy(np.stack([first, 1 - first], axis=-1))
        self._next = 0

    def draw(self, batch_size: int) -> torch.Tensor:
        """The next rows, size = (B, 2)."""
        start, self._next = self._next, self._next + batch_size
        return self._rows[start : self._next]


def _fixed_start(trainer_type: type) -> type:
    """The trainer with U and V from NumPy's frozen stream, not from torch's."""

    class FixedStart(trainer_type):
        def init_engines(self) -> None:  # before ZeRO copies the parameters
            critic = getattr(self, "reward_critic_model", None)
            for seed, adapter in enumerate([self.adapter, getattr(critic, "adapter", None)]):
                if adapter is not None:
                    fill(adapter.named_parameters().items(), 10 + seed, adapter.config.init_std)
            super().init_engines()

    return FixedStart


def make_trainer(algorithm: str, flags: list[str]) -> Any:
    """Panacea's trainer, ``dpo`` or ``ppo``, from a command line."""
    if algorithm == "dpo":
        from safe_rlhf_panacea.algorithms.dpo.main import parse_arguments
        from safe_rlhf_panacea.algorithms.dpo.trainer import PanaceaDPOTrainer as Trainer
    else:
        from safe_rlhf_panacea.algorithms.ppo.main import parse_arguments
        from safe_rlhf_panacea.algorithms.ppo.trainer import PanaceaPPOTrainer as Trainer
    args = parse_arguments([*flags, "--log_type", "none", "--progress", "false"])
    return _fixed_start(Trainer)(args, *prepare_run(args, __name__))


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
        preference = trainer.preference.reshape(-1, trainer.preference.size(-1)).double().mean(0)
        for name, value in zip(trainer.objectives, preference.tolist(), strict=True):
            series[f"λ_{name}"].append(value)
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


def trace(
    algorithm: str, flags: list[str], *, steps: int | None = None, dealt: bool = False
) -> Trace:
    """Train and note every step.

    Args:
        algorithm: ``dpo`` or ``ppo``.
        flags: the command line of that program.
        steps: stop after so many, with the schedule of the whole run.
        dealt: take λ from ``DealtPreferences``; with ``--preference_scope sample``.
    """
    trainer = make_trainer(algorithm, flags)
    trainer.total_steps = min(trainer.total_steps, steps or trainer.total_steps)
    if dealt:
        rows = trainer.total_steps * trainer.args.per_device_train_batch_size
        trainer.preferences = DealtPreferences(rows)
    series = watch(trainer, algorithm)
    trainer.train()
    trainer.logger.print = lambda *_: None  # where the adapter was saved is nobody's business
    trainer.save()
    trainer.logger.close()
    return Trace(dict(series), Path(trainer.args.output_dir))


def read_trace(path: Path, folder: Path) -> Trace:
    """The trace that ``main`` wrote."""
    return Trace(read_json(path), folder)


def main() -> None:
    """One process of several."""
    algorithm, path, *flags = sys.argv[1:]
    series = trace(algorithm, flags).series
    if is_main_process():
        atomic_write_json(path, series)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
