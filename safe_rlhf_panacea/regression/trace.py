"""A short training run with the ordinary trainers, and what it did at every step.

``python -m safe_rlhf_panacea.regression.trace ALGORITHM FILE FLAGS...`` is one process of such a
run, for a launcher of several; the first of them writes the trace to FILE.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.base.setup import prepare_run
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.regression.observing import observe
from safe_rlhf_panacea.regression.tiny_world import fill


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

    fixed, shared, for_labels = None, False, False

    def __init__(self, rows: int, seed: int = 0) -> None:
        """Draw ``rows`` vectors of two objectives."""
        first = np.random.RandomState(seed).random_sample(rows).astype(np.float32)
        self._rows = torch.from_numpy(np.stack([first, 1 - first], axis=-1))
        self._next = 0

    def draw(
        self, batch_size: int, *, begins_update: bool = True, labelled: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The next rows, size = (B, 2), wherever an update begins and whatever labels them."""
        del begins_update, labelled
        start, self._next = self._next, self._next + batch_size
        return self._rows[start : self._next]


def _fixed_start(trainer_type: type) -> type:
    """The trainer with U and V from NumPy's frozen stream, not from torch's."""

    class FixedStart(trainer_type):
        def init_engines(self) -> None:  # before ZeRO copies the parameters
            for seed, adapter in enumerate(self.panacea.adapters.values()):
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
        trainer.panacea.source = DealtPreferences(rows)
    series = observe(trainer, algorithm)
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
