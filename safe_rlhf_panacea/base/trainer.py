"""What every trainer has: the order of its hooks, a logger, checkpoints, saving."""

from __future__ import annotations

import abc
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from safe_rlhf_panacea.base.engine import passes_since_update
from safe_rlhf_panacea.data import ChatTemplate, ResumableSampler
from safe_rlhf_panacea.distributed import (
    barrier,
    get_world_size,
    is_main_process,
    refusing_together,
    unwrap,
)
from safe_rlhf_panacea.forward import PassOptions, set_pass_options
from safe_rlhf_panacea.runs.checkpoint import (
    TrainingClock,
    TrainingState,
    capture_random_state,
    restore_random_state,
    write_checksums,
)
from safe_rlhf_panacea.runs.divergence import DivergenceCheck, check_weights
from safe_rlhf_panacea.runs.logger import Logger, log_types
from safe_rlhf_panacea.runs.resuming import (
    check_same_run,
    latest_step,
    load_checkpoint,
    note_latest,
    run_start,
    take_up,
)
from safe_rlhf_panacea.runs.run_folder import CHECKPOINTS, claim_folder, withdraw_claim
from safe_rlhf_panacea.runs.run_record import write_run_record

# Loaders of a trainer, and the flags that name their data.
LOADERS = {
    "train_dataloader": "train_datasets",
    "prompt_only_dataloader": "train_datasets",
    "ptx_dataloader": "ptx_datasets",
    "eval_dataloader": "eval_datasets",
}


class TrainerBase(metaclass=abc.ABCMeta):
    """Base of all trainers.

    ``__init__`` of a concrete trainer calls ``run_init_hooks``; what a hook needs must be in
    ``args`` or set by an earlier hook.
    """

    TRAINING_TYPE: ClassVar[str]
    PROGRAM: ClassVar[str] = ""  # the module that ``python -m`` runs
    tokenizer: Any
    args: Any
    data_sampler: ResumableSampler
    logger: Logger
    clock: TrainingClock
    global_step: int
    total_steps: int
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
    def checkpoint_engines(self) -> dict[str, Any]:
        """Name to engine, for every engine that trains; the first is the model that is saved."""

    @abc.abstractmethod
    def train(self) -> None:
        """Take all steps of the run; log, evaluate and save on the way."""

    @abc.abstractmethod
    def set_train(self, mode: bool = True) -> None:
        """Set training mode for all trained models."""

    def set_eval(self) -> None:
        self.set_train(mode=False)

    def eval(self) -> dict[str, Any]:
        return self.evaluate()

    def evaluate(self) -> dict[str, Any]:
        """The trainer's own part of an evaluation."""
        return {}

    def about(self) -> dict[str, Any]:
        """What the run's record says of the method."""
        return {}

    def opened(self) -> None:  # noqa: B027
        """The output folder is claimed and the logger open."""

    def trained(self) -> None:  # noqa: B027
        """The last step was taken."""

    def about_batch(self) -> str:
        """What an error says of the batch of the present step."""
        return ""

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate.of(self.args.chat_template, self.tokenizer, self.began)

    # -- the beginning of a run -------------------------------------------------------

    def run_init_hooks(self) -> None:
        """Run ``init_models``, ``init_datasets``, ``init_engines`` and ``init_logger``."""
        self.global_step = self.saved_at = self.epoch = 0
        self.clock = TrainingClock()
        self._divergence = DivergenceCheck()
        self._random_state: dict[str, Any] | None = None
        with refusing_together():
            self.began = run_start(self.args)
        for hook in (self.init_models, self.init_datasets, self.init_engines):
            with refusing_together():
                hook()
        for model in vars(self).values():
            if isinstance(model, nn.Module):
                set_pass_options(model, PassOptions.of(self.args))
        try:
            with refusing_together():
                if self.args.resume:  # nothing is written before all is checked
                    folder = self.args.output_dir
                    fingerprints = self.data_fingerprints()
                    check_same_run(folder, self.args, fingerprints, self.template.recorded)
                    step = latest_step(folder, vars(self.args))
                    self.restore(load_checkpoint(self.checkpoint_engines(), folder, step))
                    barrier()
                self.init_logger()
        except BaseException:
            withdraw_claim(self.args.output_dir)
            raise

    def data_fingerprints(self) -> dict[str, str]:
        """A hash of what the data sets hold, by the flag that names them."""
        found = {}
        for name, flag in LOADERS.items():
            dataset = getattr(getattr(self, name, None), "dataset", None)
            if (fingerprint := getattr(dataset, "fingerprint", None)) is not None:
                found[flag] = fingerprint
        return found

    def init_logger(self) -> None:
        """Claim the output folder, record the run, open its logger."""
        args = self.args
        with refusing_together():  # the main process alone may fail in most of it
            if is_main_process():
                claim_folder(args.output_dir, overwrite=args.overwrite, resume=args.resume)
                if args.resume:
                    take_up(args.output_dir, args, self.global_step, self.total_steps)
                else:
                    about = {
                        "program": f"python -m {self.PROGRAM or type(self).__module__}",
                        "processes": get_world_size(),
                        "data": self.data_fingerprints(),
                        "template_date": str(self.began),
                        "chat_template": self.template.recorded,
                        **self.about(),
                    }
                    write_run_record(args.output_dir, args, about)
            self.logger = Logger(
                log_type=log_types(args),
                log_dir=args.log_dir or args.output_dir,
                log_project=args.log_project,
                log_run_name=args.log_run_name
                or os.environ.get("WANDB_NAME")
                or time.strftime(f"{self.TRAINING_TYPE}-%Y-%m-%d-%H-%M-%S"),
                config=args,
                resume=args.resume,
            )
            if args.resume:
                self.logger.print(f"Going on from step {self.global_step}.")
        self.opened()

    def check_step(self, info: dict[str, Any]) -> None:
        """Refuse a step whose numbers are not finite; ``info`` is what was logged of it.

        Raises:
            DivergedError: naming the step, what is not finite and the batch.
        """
        engines = self.checkpoint_engines()
        self._divergence.check(self.global_step, info, engines, self.about_batch())

    def log_evaluation(self, when: bool) -> None:
        """Evaluate and log the result, if the run evaluates and ``when`` says that it is time."""
        if self.args.need_eval and when:
            self.logger.log(self.eval(), step=self.global_step)

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
        """Go back to ``training_state``; the random numbers follow in ``go_on``."""
        self.global_step = self.saved_at = state.global_step
        self.epoch = state.epoch
        self.clock.before = state.training_seconds
        self.data_sampler.load_state_dict(state.sampler)
        self._random_state = state.random_state

    def samplers(self) -> list[ResumableSampler]:
        return [self.data_sampler]

    def go_on(self) -> None:
        """Restore the random numbers at the first step after a resume, once the loaders run.

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

    def save_if_due(self) -> None:
        """Save every ``save_interval`` steps, or at the next end of an update and a rollout."""
        interval = self.args.save_interval
        if self.global_step // interval > self.saved_at // interval:
            self.save_between_updates()

    def save_between_updates(self) -> None:
        """Save, unless a gradient waits for its update or the step was saved already."""
        waiting = any(map(passes_since_update, self.checkpoint_engines().values()))
        if not waiting and self.global_step > self.saved_at:
            self.save_checkpoint()
            self.saved_at = self.global_step

    def save_checkpoint(self) -> None:
        """Write engines and training state under ``output_dir/checkpoints/<name>``."""
        self.logger.print(f"Saving a checkpoint at step {self.global_step} ...")
        engines, checkpoints = self.checkpoint_engines(), Path(self.args.output_dir) / CHECKPOINTS
        for name, engine in engines.items():
            check_weights(unwrap(engine).named_parameters(), f"step {self.global_step}, {name}")
        state = self.training_state().to_client_state()
        for name, engine in engines.items():
            engine.save_checkpoint(
                str(checkpoints / name),
                tag=f"step-{self.global_step}",
                client_state=state,
                exclude_frozen_parameters=True,
                save_latest=False,  # note_latest does it, once all engines are written
            )
        barrier()
        write_checksums(checkpoints, self.global_step, engines)
        self.checkpointed()
        if is_main_process():
            note_latest(self.args.output_dir, self.global_step)

    def checkpointed(self) -> None:  # noqa: B027
        """A checkpoint was written."""

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write a model and the tokenizer in Hugging Face format."""
        del ds_config  # Safe-RLHF's signature has it
        engine = next(iter(self.checkpoint_engines().values())) if model is None else model
        module = unwrap(engine)
        check_weights(module.named_parameters(), f"step {self.global_step}")
        if getattr(engine, "zero_optimization_partition_weights", lambda: False)():
            state = engine._zero3_consolidated_16bit_state_dict()  # all ranks take part
        else:
            state = module.state_dict()
        if is_main_process():
            module.save_pretrained(self.args.output_dir, state_dict=state)
            self.template.keep(self.tokenizer)
            self.tokenizer.save_pretrained(self.args.output_dir)
        self.logger.print(f'Saved the model to "{self.args.output_dir}".')
        barrier()
