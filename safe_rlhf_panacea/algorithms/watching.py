"""Evaluating a coarse grid of λ while training, and showing it: shared by the Panacea trainers."""

from __future__ import annotations

import abc
import argparse
import time
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.base import unwrap
from safe_rlhf_panacea.base.clock import TrainingClock
from safe_rlhf_panacea.base.distributed import all_gather_objects, get_rank
from safe_rlhf_panacea.base.generation import SamplingConfig
from safe_rlhf_panacea.dashboard.dashboard import Dashboard
from safe_rlhf_panacea.evaluation.evaluations import Evaluation
from safe_rlhf_panacea.evaluation.measure import NotFiniteError, Policy
from safe_rlhf_panacea.evaluation.measurement import Measurement
from safe_rlhf_panacea.evaluation.results import Origin
from safe_rlhf_panacea.preference import default_grid, preference_grid

COARSE = (0.25, 0.5)  # steps of a grid that training can stop for


def evaluation_grid(args: argparse.Namespace, count: int, fixed: torch.Tensor | None) -> Any:
    """The λ of every evaluation during training, size = (N, m)."""
    if fixed is not None:
        return fixed.unsqueeze(0)
    if args.eval_grid_step is not None:
        return preference_grid(count, args.eval_grid_step)
    return default_grid(count, COARSE, most=30)


class Watched:
    """A Panacea trainer that shows its front at every evaluation.

    Stands before the base's trainer in the order of inheritance. A subclass says in
    ``measure_front`` what it measures.
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
        shown = [one.step for one in self.dashboard.evaluations]
        self._evaluated_at: int | None = all_gather_objects(shown[-1] if shown else None)[0]

    @abc.abstractmethod
    def measure_front(self) -> Measurement:
        """Measure the front; called by all processes, in evaluation mode."""

    def about_batch(self) -> str:
        """The batch's λ, or the mean of its samples'."""
        return f"λ {self.panacea.describe_latest()}"

    def origin(self) -> Origin:
        """What a result says of this run."""
        args = self.args
        adapter = self.panacea.policy
        return Origin(
            "panacea" if self.panacea.source.fixed is None else "discrete_policies",
            args.log_run_name or Path(args.output_dir).expanduser().resolve().name,
            vars(args),
            self.global_step,
            self.clock.seconds,
            sum(getattr(p, "ds_numel", p.numel()) for p in adapter.parameters()),
        )

    def measured_policy(self, engine: Any, **sampling: Any) -> Policy:
        """How the policy is measured."""
        args, tokenizer = self.args, self.tokenizer
        config = SamplingConfig(
            args.max_length, tokenizer.eos_token_id, tokenizer.pad_token_id, **sampling
        )
        rows = args.per_device_eval_batch_size
        return Policy(
            unwrap(engine),
            self.panacea.policy,
            tokenizer,
            config,
            args.seed,
            prompts_per_batch=max(1, rows // self.evaluation_grid.size(0)),
            pairs_per_batch=max(1, rows // 2),
            rows_per_forward=rows,
            progress=getattr(args, "progress", True),
        )

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
                measured = self.measure_front()
            except NotFiniteError as error:
                self.logger.print(f"step {self.global_step}: {error}")
                return info
            finally:
                self.set_train()  # type: ignore[attr-defined]
                self._evaluated_at = self.global_step
        result = measured.result(self.panacea.objectives, self.origin(), self.args.reference_point)
        more = {"seconds": time.perf_counter() - started, "drawn": self._drawn()}
        evaluation = Evaluation.of(measured, result, self.panacea.policy, **more)
        return {**info, **self.dashboard.publish(evaluation)}

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
