"""What every trainer has: the order of its hooks, a logger, checkpoints, saving."""

from __future__ import annotations

import abc
import argparse
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.checkpoint import (
    TrainingState,
    capture_random_state,
    restore_random_state,
)
from safe_rlhf_panacea.base.clock import TrainingClock
from safe_rlhf_panacea.base.datasets import ResumableSampler
from safe_rlhf_panacea.base.distributed import (
    barrier,
    get_world_size,
    is_main_process,
    refusing_together,
)
from safe_rlhf_panacea.base.engine import unwrap, whole_state_dict
from safe_rlhf_panacea.base.logger import Logger
from safe_rlhf_panacea.base.resuming import (
    check_same_run,
    latest_step,
    load_checkpoint,
    note_latest,
    take_up,
)
from safe_rlhf_panacea.base.run_record import prepare_output_dir, write_run_record


class TrainerBase(metaclass=abc.ABCMeta):
    """Base of all trainers.

    ``__init__`` of a concrete trainer runs ``init_models``, ``init_datasets``,
    ``init_engines`` and ``init_logger`` in this order; what a hook needs must be in ``args``
    or set by an earlier hook.
    """

    TRAINING_TYPE: ClassVar[str]

    tokenizer: Any
    args: argparse.Namespace
    logger: Logger
    global_step: int
    epoch: int

    @abc.abstractmethod
    def init_models(self) -> None:
        """Load models and tokenizers."""

    @abc.abstractmethod
    def init_datasets(self) -> None:
        """Load data sets and make the loaders."""

    @abc.abstractmethod
    def init_engines(self) -> None:
        """Wrap the models in DeepSpeed engines."""

    @abc.abstractmethod
    def train(self) -> None:
        """Train."""

    @abc.abstractmethod
    def set_train(self, mode: bool = True) -> None:
        """Set training mode for all trained models."""

    def set_eval(self) -> None:
        """Set evaluation mode for all trained models."""
        self.set_train(mode=False)

    def eval(self) -> dict[str, Any]:
        """Evaluate; nothing by default."""
        return {}

    def run_init_hooks(self) -> None:
        """Run the four hooks in their order."""
        self.global_step = self.saved_at = 0
        self.epoch = 0
        self.clock = TrainingClock()
        self._random_state: dict[str, Any] | None = None
        for hook in (self.init_models, self.init_datasets, self.init_engines):
            with refusing_together():
                hook()
        with refusing_together():
            if self.args.resume:
                self.resume()
            self.init_logger()

    def resume(self) -> None:
        """Go back to the latest checkpoint, before anything in the folder is touched.

        Raises:
            UserError: there is none, or it is of another run.
        """
        folder = self.args.output_dir
        check_same_run(folder, self.args)
        step = latest_step(folder)
        self.restore(load_checkpoint(self.checkpoint_engines(), folder, step))
        barrier()

    def init_logger(self) -> None:
        """Claim the output folder, record the run, open its logger."""
        args = self.args
        if is_main_process():
            prepare_output_dir(args.output_dir, overwrite=args.overwrite, resume=args.resume)
            if args.resume:
                take_up(args.output_dir, args, self.global_step)
            else:
                about = {"program": args.program, "processes": get_world_size()}
                write_run_record(args.output_dir, args, about)
        started = time.strftime("%Y-%m-%d-%H-%M-%S")
        self.logger = Logger(
            log_type=args.log_type,
            log_dir=args.log_dir or args.output_dir,
            log_project=args.log_project,
            log_run_name=args.log_run_name
            or os.environ.get("WANDB_NAME")
            or f"{self.TRAINING_TYPE}-{started}",
            config=args,
            resume=args.resume,
        )
        if args.resume:
            self.logger.print(f"Going on from step {self.global_step}.")

    # -- checkpoints ------------------------------------------------------------------

    def training_state(self) -> TrainingState:
        """Everything besides weights and optimiser that an exact resume needs."""
        return TrainingState(
            global_step=self.global_step,
            epoch=self.epoch,
            random_state=capture_random_state(),
            sampler=self.data_sampler.state_dict(),
            training_seconds=self.clock.seconds,
        )

    def restore(self, state: TrainingState) -> None:
        """Stand where ``training_state`` was taken; random numbers follow in ``go_on``.

        Raises:
            UserError: the state is of other data or of another number of processes.
        """
        self.global_step = self.saved_at = state.global_step
        self.epoch = state.epoch
        self.clock.before = state.training_seconds
        self.data_sampler.load_state_dict(state.sampler)
        self._random_state = state.random_state

    def samplers(self) -> list[ResumableSampler]:
        """Of the training data."""
        return [self.data_sampler]

    def go_on(self) -> None:
        """At the first step after a resume, with the loaders under way: the random numbers.

        A loader draws one number from torch's stream when an epoch begins; a run that went on
        without a stop drew it after its checkpoint.
        """
        if self._random_state is None:
            return
        restore_random_state(self._random_state)
        self._random_state = None
        for sampler in self.samplers():
            if sampler.began_anew:
                torch.empty((), dtype=torch.int64).random_()

    def checkpoint_engines(self) -> dict[str, Any]:
        """Name to engine, for every engine that trains."""
        return {"model": self.model}

    def save_if_due(self) -> None:
        """Save where nothing hangs over: between two updates, and not within a rollout.

        So a checkpoint may come a few steps after its multiple of ``save_interval``.
        """
        interval = self.args.save_interval
        due = self.global_step // interval > self.saved_at // interval
        engines = self.checkpoint_engines().values()
        if due and all(e.micro_steps % e.gradient_accumulation_steps() == 0 for e in engines):
            self.save_checkpoint()
            self.saved_at = self.global_step

    def save_checkpoint(self) -> None:
        """Write engines and training state under ``output_dir/checkpoints/<name>``."""
        self.logger.print(f"Saving a checkpoint at step {self.global_step} ...")
        state = self.training_state().to_client_state()
        for name, engine in self.checkpoint_engines().items():
            folder = Path(self.args.output_dir) / "checkpoints" / name
            engine.save_checkpoint(
                str(folder),
                tag=f"step-{self.global_step}",
                client_state=state,
                exclude_frozen_parameters=True,
                save_latest=False,  # each engine on its own, and not in one stroke
            )
        barrier()
        if is_main_process():
            note_latest(self.args.output_dir, self.global_step)

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write a model and the tokenizer in Hugging Face format, safetensors."""
        del ds_config  # kept for Safe-RLHF's signature; one way of saving serves every stage
        engine = self.model if model is None else model
        state = whole_state_dict(engine)  # every rank takes part in the gathering
        if is_main_process():
            unwrap(engine).save_pretrained(self.args.output_dir, state_dict=state)
            self.tokenizer.save_pretrained(self.args.output_dir)
        self.logger.print(f'Saved the model to "{self.args.output_dir}".')
        barrier()
