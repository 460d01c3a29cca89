"""Evaluating a coarse grid of λ while training, and showing it: shared by the Panacea trainers."""

from __future__ import annotations

import abc
import argparse
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.base import unwrap
from safe_rlhf_panacea.base.clock import TrainingClock
from safe_rlhf_panacea.base.distributed import all_gather_objects, get_rank
from safe_rlhf_panacea.base.generation import SamplingConfig
from safe_rlhf_panacea.dashboard.dashboard import Dashboard
from safe_rlhf_panacea.dashboard.measure import NotFiniteError, Policy
from safe_rlhf_panacea.dashboard.snapshot import Snapshot
from safe_rlhf_panacea.evaluation.reward_front import Prompt
from safe_rlhf_panacea.preference import default_grid, preference_grid

COARSE = (0.25, 0.5)  # steps of a grid that training can stop for


def evaluation_grid(args: argparse.Namespace, count: int, fixed: torch.Tensor | None) -> Any:
    """The λ of every evaluation during training, size = (N, m)."""
    if fixed is not None:
        return fixed.unsqueeze(0)
    if args.eval_grid_step is not None:
        return preference_grid(count, args.eval_grid_step)
    return default_grid(count, COARSE, most=30)


def different_prompts(
    tokenizer: Any, ids: Iterable[torch.Tensor], most: int | None
) -> list[Prompt]:
    """At most so many prompts, none twice; no more are read than needed."""
    found: dict[str, Prompt] = {}
    for row in ids:
        prompt = Prompt(tokenizer.decode(row, skip_special_tokens=True), tuple(row.tolist()))
        found.setdefault(prompt.text, prompt)
        if len(found) == most:
            break
    return list(found.values())


class Watched:
    """A Panacea trainer that shows its front at every evaluation.

    Stands before the base's trainer in the order of inheritance. A subclass says in
    ``take_snapshot`` what it measures.
    """

    args: Any
    logger: Any
    tokenizer: Any
    global_step: int
    eval_dataloader: Any
    panacea: Panacea
    clock: TrainingClock

    def init_logger(self) -> None:
        """With the dashboard."""
        super().init_logger()  # type: ignore[misc]
        count = len(self.panacea.objectives)
        self.evaluation_grid = evaluation_grid(self.args, count, self.panacea.source.fixed)
        self.dashboard = Dashboard(Path(self.args.output_dir).expanduser(), self.logger)
        # Of a resumed run, as the main process, which has the files, knows it.
        shown = [snapshot.step for snapshot in self.dashboard.snapshots]
        self._evaluated_at: int | None = all_gather_objects(shown[-1] if shown else None)[0]

    @abc.abstractmethod
    def take_snapshot(self) -> Snapshot:
        """Measure the front; called by all processes, in evaluation mode."""

    def about_batch(self) -> str:
        """The batch's λ, or the mean of its samples'."""
        return f"λ {self.panacea.describe_latest()}"

    def about_run(self) -> dict[str, Any]:
        """What a result says besides the front."""
        args = self.args
        one = self.panacea.source.fixed is not None
        return {
            "method": "discrete_policies" if one else "panacea",
            "label": args.log_run_name or Path(args.output_dir).expanduser().resolve().name,
            "aggregation": args.aggregation,
            "fixed_scaling": args.fixed_scaling,
            "step": self.global_step,
            "cost": {
                "training_seconds": round(self.clock.seconds, 3),
                "stored_parameters": sum(
                    getattr(p, "ds_numel", p.numel()) for p in self.panacea.policy.parameters()
                ),
                "trained_models": 1,
            },
        }

    def measured_policy(self, engine: Any, **sampling: Any) -> Policy:
        """What ``dashboard/measure.py`` wants to know of a policy."""
        args, tokenizer = self.args, self.tokenizer
        config = SamplingConfig(
            args.max_length, tokenizer.eos_token_id, tokenizer.pad_token_id, **sampling
        )
        progress = getattr(args, "progress", True)
        rows = args.per_device_eval_batch_size
        model, adapter = unwrap(engine), self.panacea.policy
        return Policy(model, adapter, tokenizer, config, rows, args.seed, progress=progress)

    def eval(self) -> dict[str, Any]:
        """The base's evaluation, then the front; training's random numbers stay as they were."""
        if self.eval_dataloader is None:
            return {}
        with self.clock.stopped():
            return self._evaluate()

    def _evaluate(self) -> dict[str, Any]:
        started = time.perf_counter()
        devices = [self.args.device] if torch.device(self.args.device).type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed + get_rank())
            info = super().eval()  # type: ignore[misc]
            self.set_eval()  # type: ignore[attr-defined]
            try:
                with torch.no_grad():
                    snapshot = self.take_snapshot()
            except NotFiniteError:
                text = (
                    f"step {self.global_step}: the policy or its rewards are not finite; no front"
                )
                self.logger.print(text)
                return info
            finally:
                self.set_train()  # type: ignore[attr-defined]
                self._evaluated_at = self.global_step
        seconds = time.perf_counter() - started
        snapshot = replace(snapshot, seconds=seconds, drawn=self._drawn())
        return {**info, **self.dashboard.publish(snapshot)}

    def _drawn(self) -> dict[str, list[int]]:
        """How often training drew each tenth of λ_i, on all processes."""
        counts = all_gather_objects(self.panacea.source.drawn)
        if self.args.preference_scope == "batch":
            counts = counts[:1]  # they draw together
        return dict(zip(self.panacea.objectives, sum(counts).tolist(), strict=True))

    def train(self) -> None:
        """Train, and show the last front as well."""
        super().train()  # type: ignore[misc]
        if self.args.need_eval and self._evaluated_at != self.global_step:
            self.logger.log(self.eval(), step=self.global_step)
        self.dashboard.finish()
