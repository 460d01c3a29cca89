"""What every Panacea trainer has: the front on the way, λ in checkpoints, the adapter saved."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.dashboard import Dashboard
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
from safe_rlhf_panacea.preference import default_grid, format_preference, preference_grid
from safe_rlhf_panacea.runs.checkpoint import TrainingState
from safe_rlhf_panacea.runs.divergence import check_weights

if TYPE_CHECKING:  # at run time what a trainer stands on: the port, or Safe-RLHF
    from safe_rlhf_panacea.base.trainer import TrainerBase
else:
    TrainerBase = object

COARSE = (0.25, 0.5)  # steps of a grid that training can stop for


def evaluation_grid(args: PanaceaConfig, count: int, fixed: Tensor | None) -> Any:
    """The λ of every evaluation during training, size = (N, m)."""
    if fixed is not None:
        return fixed.unsqueeze(0)
    if args.eval_grid_step is not None:
        return preference_grid(count, args.eval_grid_step)
    return default_grid(count, COARSE, most=30)


class PanaceaTrainer(TrainerBase):
    """The part that all trainers share; each derives from this first, and then from its base.

    Attributes:
        panacea: λ, the adapters and the aggregation.
        grid: the λ of every evaluation, size = (N, m); there once the logger is open.
    """

    panacea: Panacea
    grid: Tensor
    eval_dataloader: Any

    def init_panacea(self, args: Any, objectives: tuple[str, ...], base_model: Any) -> None:
        """Make ``panacea``, before the base's ``__init__`` calls its hooks."""
        self.panacea = Panacea(args, objectives, base_model)
        self.panacea.source.run_progress = lambda: self.global_step / self.total_steps

    @abc.abstractmethod
    def measure_front(self) -> Measurement:
        """Measure the front; called by all processes, in evaluation mode."""

    def about(self) -> dict[str, Any]:
        return {"adapted_share": round(self.panacea.coverage.share, 4)}

    def about_batch(self) -> str:
        panacea = self.panacea
        return f"λ {format_preference(panacea.latest.mean(dim=0), panacea.objectives)}"

    def opened(self) -> None:
        """Say which weights get no adapter, and open the dashboard."""
        args, panacea = self.args, self.panacea
        if panacea.coverage.note:
            self.logger.print(panacea.coverage.note)
        self.grid = evaluation_grid(args, len(panacea.objectives), panacea.source.fixed)
        with refusing_together():
            self.dashboard = Dashboard(Path(args.output_dir).expanduser(), self.logger)
        # Of a resumed run, as the main process, which has the files, knows it.
        shown = [one.step for one in self.dashboard.evaluations]
        self.evaluated_at: int | None = all_gather_objects(shown[-1] if shown else None)[0]

    def trained(self) -> None:
        """Evaluate and show the front of the last step too."""
        if self.args.need_eval and self.evaluated_at != self.global_step:
            self.logger.log(self.eval(), step=self.global_step)
        self.dashboard.finish()

    # -- the front --------------------------------------------------------------------

    def measured_policy(self, engine: Any, **sampling: Any) -> Policy:
        """The policy in ``engine``, and how its front is measured."""
        args, tokenizer = self.args, self.tokenizer
        stops = self.template.stop_ids(unwrap(engine))
        rows = args.per_device_eval_batch_size
        return Policy(
            unwrap(engine),
            self.panacea.policy,
            tokenizer,
            SamplingConfig(args.max_length, stops, tokenizer.pad_token_id, **sampling),
            args.seed,
            prompts_per_batch=max(1, rows // self.grid.size(0)),
            pairs_per_batch=max(1, rows // 2),
            progress=getattr(args, "progress", True),
        )

    def eval(self) -> dict[str, Any]:
        """The base's evaluation, at the centre of the simplex, then the front."""
        if self.eval_dataloader is None:
            return {}
        panacea, started = self.panacea, time.perf_counter()
        with self._apart():
            info: dict[str, Any] = {}
            try:
                info = self.evaluate()
                self.set_train(mode=False)
                measured = self.measure_front()
            except NotFiniteError as error:
                self.logger.print(f"step {self.global_step}: no front: {error}")
                return info
            finally:
                self.set_train()
                self.evaluated_at = self.global_step
            # How often training drew each tenth of λ_i, on all processes.
            counts = all_gather_objects(panacea.source.drawn)
            if panacea.source.shared:
                counts = counts[:1]  # they draw together
            drawn = dict(zip(panacea.objectives, sum(counts).tolist(), strict=True))
            seconds, result = time.perf_counter() - started, self._result(measured)
            evaluation = Evaluation.of(
                measured, result, panacea.policy, seconds=seconds, drawn=drawn
            )
            with refusing_together():
                series = self.dashboard.publish(evaluation)
            return {**info, **series}

    def measured(self, grid: Tensor | None = None) -> FrontResult:
        """The front now, at a grid of λ, size = (N, m), or at its own; nothing is published."""
        own = self.grid
        self.grid = own if grid is None else grid.to(own.device)
        try:
            with self._apart():
                self.set_train(mode=False)
                measured = self.measure_front()
        finally:
            self.grid = own
        return self._result(measured)

    def _result(self, measured: Measurement) -> FrontResult:
        """What was measured, as a result of this run at its present step."""
        args, panacea = self.args, self.panacea
        about = origin(
            "panacea" if panacea.source.fixed is None else "discrete_policies",
            args.log_run_name or Path(args.output_dir).expanduser().resolve().name,
            vars(args),
            self.global_step,
            self.clock.seconds,
            sum(getattr(p, "ds_numel", p.numel()) for p in panacea.policy.parameters()),
        )
        return measured.result(panacea.objectives, about, args.reference_point)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Stop training's clock and keep its random numbers; λ is the centre of the simplex."""
        device = own_device()
        with (
            self.clock.stopped(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            self.panacea.at(self.panacea.centre, shared=True),
        ):
            torch.manual_seed(self.args.seed + get_rank())
            yield

    # -- checkpoints and the adapter --------------------------------------------------

    def training_state(self) -> TrainingState:
        state = super().training_state()
        state.panacea = {**self.panacea.state_dict(), **state.panacea}
        return state

    def restore(self, state: TrainingState) -> None:
        super().restore(state)
        self.panacea.load_state_dict(state.panacea)

    def checkpointed(self) -> None:
        """Write the adapter as it is now, ready to be loaded and evaluated."""
        checkpoints = Path(self.args.output_dir) / "checkpoints" / "adapter"
        self._write(checkpoints / f"step-{self.global_step}")

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write the adapter and the tokenizer; the base model stays where it is."""
        del model, ds_config  # Safe-RLHF's signature has them
        folder = self.args.output_dir
        self._write(folder)
        self.logger.print(f'Saved the adapter to "{folder}".')

    def _write(self, folder: str | Path) -> None:
        """Write the policy's adapter and the tokenizer once, whole also under ZeRO 3."""
        policy = self.panacea.policy
        check_weights(policy.named_parameters().items(), f"the adapter of {folder}")
        with gathered(policy.parameters()):
            if is_main_process():
                policy.save(folder)
                self.template.keep(self.tokenizer)
                self.tokenizer.save_pretrained(folder)
        barrier()
