"""What every Panacea trainer holds: the front on the way, λ in checkpoints, the adapter saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.base.part import Part
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.dashboard import Dashboard
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.distributed import (
    all_gather_objects,
    barrier,
    get_rank,
    is_main_process,
    own_device,
    refusing_together,
    unwrap,
)
from safe_rlhf_panacea.forward import NotFiniteError, SamplingConfig
from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.measure import Policy
from safe_rlhf_panacea.fronts.measurement import Measurement, origin
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.preference import default_grid, preference_grid
from safe_rlhf_panacea.runs.checkpoint import TrainingClock
from safe_rlhf_panacea.runs.divergence import check_weights

COARSE = (0.25, 0.5)  # steps of a grid that training can stop for


def evaluation_grid(args: PanaceaConfig, count: int, fixed: torch.Tensor | None) -> Any:
    """The λ of every evaluation during training, size = (N, m)."""
    if fixed is not None:
        return fixed.unsqueeze(0)
    if args.eval_grid_step is not None:
        return preference_grid(count, args.eval_grid_step)
    return default_grid(count, COARSE, most=30)


class FrontTrainer(Protocol):
    """What a trainer has that holds a ``PanaceaPart``."""

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


class PanaceaPart(Part):
    """Joins a trainer that has a ``Panacea`` component and a ``measure_front``.

    Attributes:
        grid: the λ of every evaluation, size = (N, m); there once the logger is open.
    """

    trainer: FrontTrainer
    grid: torch.Tensor

    def __init__(self, trainer: FrontTrainer) -> None:
        self.trainer, self.panacea = trainer, trainer.panacea
        self.panacea.source.run_progress = lambda: trainer.global_step / trainer.total_steps

    def about(self) -> dict[str, Any]:
        return {"adapted_share": round(self.panacea.coverage.share, 4)}

    def about_batch(self) -> str:
        return f"λ {self.panacea.describe_latest()}"

    def opened(self) -> None:
        """Say which weights get no adapter, and open the dashboard."""
        args, panacea, logger = self.trainer.args, self.panacea, self.trainer.logger
        if panacea.coverage.note:
            logger.print(panacea.coverage.note)
        self.grid = evaluation_grid(args, len(panacea.objectives), panacea.source.fixed)
        with refusing_together():
            self.dashboard = Dashboard(Path(args.output_dir).expanduser(), logger)
        # Of a resumed run, as the main process, which has the files, knows it.
        shown = [one.step for one in self.dashboard.evaluations]
        self.evaluated_at: int | None = all_gather_objects(shown[-1] if shown else None)[0]

    def trained(self) -> None:
        """Evaluate and show the front of the last step too."""
        trainer = self.trainer
        if trainer.args.need_eval and self.evaluated_at != trainer.global_step:
            trainer.logger.log(trainer.eval(), step=trainer.global_step)
        self.dashboard.finish()

    # -- the front --------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The evaluation data, of a trainer that has some."""
        return self.trainer.eval_dataloader.dataset

    def measured_policy(self, engine: Any, **sampling: Any) -> Policy:
        """The policy in ``engine``, and how its front is measured."""
        args, tokenizer = self.trainer.args, self.trainer.tokenizer
        stops = self.trainer.template.stop_ids(unwrap(engine))
        config = SamplingConfig(args.max_length, stops, tokenizer.pad_token_id, **sampling)
        rows = args.per_device_eval_batch_size
        return Policy(
            unwrap(engine),
            self.panacea.policy,
            tokenizer,
            config,
            args.seed,
            prompts_per_batch=max(1, rows // self.grid.size(0)),
            pairs_per_batch=max(1, rows // 2),
            progress=getattr(args, "progress", True),
        )

    def evaluate(self, base: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The base's evaluation, at the centre of the simplex, then the front."""
        trainer, panacea = self.trainer, self.panacea
        if trainer.eval_dataloader is None:
            return {}
        started = time.perf_counter()
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
            # How often training drew each tenth of λ_i, on all processes.
            counts = all_gather_objects(panacea.source.drawn)
            if panacea.source.shared:
                counts = counts[:1]  # they draw together
            drawn = dict(zip(panacea.objectives, sum(counts).tolist(), strict=True))
            seconds = time.perf_counter() - started
            result, policy = self._result(measured), panacea.policy
            evaluation = Evaluation.of(measured, result, policy, seconds=seconds, drawn=drawn)
            with refusing_together():
                series = self.dashboard.publish(evaluation)
            return {**info, **series}

    def measured(self, grid: torch.Tensor | None = None) -> FrontResult:
        """The front now, at a grid of λ, size = (N, m), or at its own; nothing is published."""
        own = self.grid
        self.grid = own if grid is None else grid.to(own.device)
        try:
            with self._apart():
                self.trainer.set_train(mode=False)
                measured = self.trainer.measure_front()
        finally:
            self.grid = own
        return self._result(measured)

    def _result(self, measured: Measurement) -> FrontResult:
        """What was measured, as a result of this run at its present step."""
        trainer, panacea = self.trainer, self.panacea
        args = trainer.args
        about = origin(
            "panacea" if panacea.source.fixed is None else "discrete_policies",
            args.log_run_name or Path(args.output_dir).expanduser().resolve().name,
            vars(args),
            trainer.global_step,
            trainer.clock.seconds,
            sum(getattr(p, "ds_numel", p.numel()) for p in panacea.policy.parameters()),
        )
        return measured.result(panacea.objectives, about, args.reference_point)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Stop training's clock and keep its random numbers; λ is the centre of the simplex."""
        trainer, device = self.trainer, own_device()
        with (
            trainer.clock.stopped(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            self.panacea.at(self.panacea.centre, shared=True),
        ):
            torch.manual_seed(trainer.args.seed + get_rank())
            yield

    # -- checkpoints and the adapter --------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.panacea.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.panacea.load_state_dict(state)

    def checkpointed(self) -> None:
        """Write the adapter as it is now, ready to be loaded and evaluated."""
        trainer = self.trainer
        checkpoints = Path(trainer.args.output_dir) / "checkpoints" / "adapter"
        self._write(checkpoints / f"step-{trainer.global_step}")

    def save(self) -> bool:
        """Write the adapter and the tokenizer; the base model stays where it is."""
        folder = self.trainer.args.output_dir
        self._write(folder)
        self.trainer.logger.print(f'Saved the adapter to "{folder}".')
        return True

    def _write(self, folder: str | Path) -> None:
        """Write the policy's adapter and the tokenizer once, whole also under ZeRO 3."""
        policy, tokenizer = self.panacea.policy, self.trainer.tokenizer
        check_weights(policy.named_parameters().items(), f"the adapter of {folder}")
        with gathered(policy.parameters()):
            if is_main_process():
                policy.save(folder)
                self.panacea.template.keep(tokenizer)
                tokenizer.save_pretrained(folder)
        barrier()
