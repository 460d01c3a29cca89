"""Evaluating a coarse grid of λ while training, and showing it: shared by the Panacea trainers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.dashboard import Dashboard
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.distributed import (
    all_gather_objects,
    get_rank,
    own_device,
    refusing_together,
)
from safe_rlhf_panacea.forward import NotFiniteError, SamplingConfig
from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.measure import Policy
from safe_rlhf_panacea.fronts.measurement import Measurement, origin
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.preference import default_grid, preference_grid
from safe_rlhf_panacea.runs.checkpoint import TrainingClock

COARSE = (0.25, 0.5)  # steps of a grid that training can stop for


def evaluation_grid(args: PanaceaConfig, count: int, fixed: torch.Tensor | None) -> Any:
    """The λ of every evaluation during training, size = (N, m)."""
    if fixed is not None:
        return fixed.unsqueeze(0)
    if args.eval_grid_step is not None:
        return preference_grid(count, args.eval_grid_step)
    return default_grid(count, COARSE, most=30)


class FrontTrainer(Protocol):
    """What a trainer has whose front is evaluated."""

    args: Any
    logger: Any
    tokenizer: Any
    global_step: int
    total_steps: int
    eval_dataloader: Any
    panacea: Panacea
    clock: TrainingClock

    @property
    def template(self) -> ChatTemplate:
        """How the run writes conversations."""

    def eval(self) -> dict[str, Any]:
        """Evaluate, the front too."""

    def measure_front(self) -> Measurement:
        """Measure the front; called by all processes, in evaluation mode."""

    def set_train(self, mode: bool = True) -> None:
        """Set training mode for all trained models."""


class FrontEvaluator:
    """The part of a Panacea trainer that evaluates its front on the way and shows it.

    Attributes:
        grid: the λ of every evaluation, size = (N, m).
    """

    def __init__(self, trainer: FrontTrainer) -> None:
        """Open the dashboard of a trainer whose logger is open."""
        self.trainer = trainer
        args, panacea = trainer.args, trainer.panacea
        self.grid = evaluation_grid(args, len(panacea.objectives), panacea.source.fixed)
        with refusing_together():
            self.dashboard = Dashboard(Path(args.output_dir).expanduser(), trainer.logger)
        # Of a resumed run, as the main process, which has the files, knows it.
        shown = [one.step for one in self.dashboard.evaluations]
        self.evaluated_at: int | None = all_gather_objects(shown[-1] if shown else None)[0]

    def origin(self) -> dict[str, Any]:
        """What a result says of this run."""
        trainer = self.trainer
        args, panacea = trainer.args, trainer.panacea
        return origin(
            "panacea" if panacea.source.fixed is None else "discrete_policies",
            args.log_run_name or Path(args.output_dir).expanduser().resolve().name,
            vars(args),
            trainer.global_step,
            trainer.clock.seconds,
            sum(getattr(p, "ds_numel", p.numel()) for p in panacea.policy.parameters()),
        )

    @property
    def data(self) -> Any:
        """The evaluation data, of a trainer that has some."""
        return self.trainer.eval_dataloader.dataset

    def measured_policy(self, engine: Any, **sampling: Any) -> Policy:
        """How the policy is measured."""
        args, tokenizer = self.trainer.args, self.trainer.tokenizer
        stops = self.trainer.template.stop_ids(unwrap(engine))
        config = SamplingConfig(args.max_length, stops, tokenizer.pad_token_id, **sampling)
        rows = args.per_device_eval_batch_size
        return Policy(
            unwrap(engine),
            self.trainer.panacea.policy,
            tokenizer,
            config,
            args.seed,
            prompts_per_batch=max(1, rows // self.grid.size(0)),
            pairs_per_batch=max(1, rows // 2),
            progress=getattr(args, "progress", True),
        )

    def evaluate(self, base: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The base's evaluation, at the centre of the simplex, then the front."""
        trainer = self.trainer
        if trainer.eval_dataloader is None:
            return {}
        started, panacea = time.perf_counter(), trainer.panacea
        with self._apart():
            info: dict[str, Any] = {}
            try:
                info = base()
                trainer.set_train(mode=False)
                measured = trainer.measure_front()
            except NotFiniteError as error:
                trainer.logger.print(f"step {trainer.global_step}: no front: {error}")
                return info
            finally:
                trainer.set_train()
                self.evaluated_at = trainer.global_step
            point = trainer.args.reference_point
            result = measured.result(panacea.objectives, self.origin(), point)
            more = {"seconds": time.perf_counter() - started, "drawn": self._drawn()}
            evaluation = Evaluation.of(measured, result, panacea.policy, **more)
            with refusing_together():
                series = self.dashboard.publish(evaluation)
            return {**info, **series}

    def measured(self, grid: torch.Tensor | None = None) -> FrontResult:
        """The front now, at a grid of λ, size = (N, m), or at its own; nothing is published."""
        trainer, own = self.trainer, self.grid
        self.grid = own if grid is None else grid.to(own.device)
        try:
            with self._apart():
                trainer.set_train(mode=False)
                measured = trainer.measure_front()
        finally:
            self.grid = own
        point = trainer.args.reference_point
        return measured.result(trainer.panacea.objectives, self.origin(), point)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Inside, training's clock stands still, and its random numbers stay as they were.

        λ is the centre of the simplex.
        """
        trainer, device = self.trainer, own_device()
        with (
            trainer.clock.stopped(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            trainer.panacea.at(trainer.panacea.centre, shared=True),
        ):
            torch.manual_seed(trainer.args.seed + get_rank())
            yield

    def _drawn(self) -> dict[str, list[int]]:
        """How often training drew each tenth of λ_i, on all processes."""
        panacea = self.trainer.panacea
        counts = all_gather_objects(panacea.source.drawn)
        if panacea.source.shared:
            counts = counts[:1]  # they draw together
        return dict(zip(panacea.objectives, sum(counts).tolist(), strict=True))

    def finish(self, evaluate: Callable[[], dict[str, Any]]) -> None:
        """After the last step: show the last front as well."""
        trainer = self.trainer
        if trainer.args.need_eval and self.evaluated_at != trainer.global_step:
            trainer.logger.log(evaluate(), step=trainer.global_step)
        self.dashboard.finish()
