"""The loop of reinforcement learning from rewards: roll out, then update."""

from __future__ import annotations

import abc
import argparse
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader

from safe_rlhf_panacea.base.checkpoint import TrainingState
from safe_rlhf_panacea.base.datasets import ResumableSampler
from safe_rlhf_panacea.base.distributed import all_reduce_means, get_rank, get_world_size
from safe_rlhf_panacea.base.dropout import has_dropout
from safe_rlhf_panacea.base.engine import (
    init_role_engine,
    passes_since_update,
    set_gradient_checkpointing,
    unwrap,
)
from safe_rlhf_panacea.base.generation import sample
from safe_rlhf_panacea.base.progress import progress_bar
from safe_rlhf_panacea.base.trainers import rl_data
from safe_rlhf_panacea.base.trainers.actor import text_step
from safe_rlhf_panacea.base.trainers.base import TrainerBase
from safe_rlhf_panacea.base.trainers.rollout import Rollout
from safe_rlhf_panacea.base.trainers.supervised import to_device
from safe_rlhf_panacea.base.ways import fitting_way

Batch = rl_data.Batch


class RLTrainer(TrainerBase):
    """Base of the reinforcement-learning trainers.

    Hooks for subclasses: ``init_actor``, ``init_reference`` and ``init_rewards`` load the models;
    ``post_rollout``, ``rl_step``, ``ptx_step`` and ``eval_rollout`` do the work.

    Attributes:
        TRAINED: each role that is trained, as its flags and checkpoints begin, and the attribute
            with its model, later its engine; in the order in which the engines are made.
        WHOLE_GROUPS: whether a micro-batch holds all responses to its prompts, and not one to each.
        waiting: the actor's backward passes to come on what was rolled out since the last step.
    """

    TRAINING_TYPE: ClassVar[str] = "rl"
    TRAINED: ClassVar[dict[str, str]] = {"actor": "actor_model"}
    WHOLE_GROUPS: ClassVar[bool] = False

    actor_model: Any
    actor_reference_model: Any
    reward_model: Any
    waiting: int = 0

    def __init__(
        self,
        args: argparse.Namespace,
        ds_train_config: dict[str, Any],
        ds_eval_config: dict[str, Any],
    ) -> None:
        """Run the hooks, then read the coefficients."""
        self.args = args
        self.ds_config = self.ds_train_config = ds_train_config
        self.ds_eval_config = ds_eval_config
        self.run_init_hooks()
        if get_world_size() > 1:
            # The models were made from one seed on all processes; responses must not be drawn
            # from one, or row i of every process would share its random numbers.
            torch.manual_seed(args.seed + get_rank())
        self.kl_coeff = args.kl_coeff
        self.clip_range_ratio = args.clip_range_ratio
        self.ptx_coeff = args.ptx_coeff

    # -- set-up -----------------------------------------------------------------------

    def init_models(self) -> None:
        """Load actor, reference and rewards, in this order."""
        self.init_actor()
        self.init_reference()
        self.init_rewards()
        self.generation_config = rl_data.sampling_config(self.args, self.template, self.actor_model)

    @abc.abstractmethod
    def init_actor(self) -> None:
        """Load the policy and its tokenizer."""

    @abc.abstractmethod
    def init_reference(self) -> None:
        """Provide the reference that the KL term is held against."""

    @abc.abstractmethod
    def init_rewards(self) -> None:
        """Load what scores a response."""

    def init_datasets(self) -> None:
        """Load prompts and, if asked for, supervised text for the PTX loss."""
        args = self.args
        rows = rl_data.rows_of_rollout(args)
        loaders = rl_data.prompt_loaders(args, self.template)
        self.prompt_only_dataloader, self.data_sampler, self.eval_dataloader = loaders
        self.ptx_dataloader: DataLoader | None = None
        self.use_ptx = args.ptx_datasets is not None
        if self.use_ptx:
            self.ptx_dataloader, self.ptx_sampler = rl_data.text_loader(args, self.template, rows)
        lengths = rl_data.lengths(len(self.data_sampler), args, self.WHOLE_GROUPS)
        self.steps_per_epoch, self.total_steps = lengths
        vary = any(map(has_dropout, self.trained().values()))
        self.used_once = args.update_iters == 1 and not vary

    def init_engines(self) -> None:
        """Make the engines.

        With PTX the actor sees twice as many backward passes per update. Training steps at the
        end of a run that are too few for an update make none.
        """
        args = self.args
        configs = {role: dict(self.ds_train_config) for role in self.TRAINED}
        if self.use_ptx:
            args.gradient_accumulation_steps *= 2
            configs["actor"]["train_batch_size"] *= 2
            configs["actor"]["gradient_accumulation_steps"] *= 2
        updates = self.total_steps // self.ds_train_config["gradient_accumulation_steps"]
        for role, model in self.trained().items():
            engine = init_role_engine(model, args, role, configs[role], updates)
            setattr(self, self.TRAINED[role], engine)
        fitting_way(unwrap(self.actor_model), self.generation_config)  # or it is refused here

    def trained(self) -> dict[str, Any]:
        """Role to model, after ``init_engines`` to engine, of all that is trained."""
        return {role: getattr(self, attribute) for role, attribute in self.TRAINED.items()}

    def checkpoint_engines(self) -> dict[str, Any]:
        """Of all that is trained."""
        return self.trained()

    def samplers(self) -> list[ResumableSampler]:
        """Of the prompts, and of the supervised text."""
        return [self.data_sampler, *([self.ptx_sampler] if self.use_ptx else [])]

    def training_state(self) -> TrainingState:
        """With the place in the supervised text."""
        state = super().training_state()
        state.ptx_sampler = self.ptx_sampler.state_dict() if self.use_ptx else None
        return state

    def restore(self, state: TrainingState) -> None:
        """With the place in the supervised text."""
        super().restore(state)
        if state.ptx_sampler is not None and self.use_ptx:
            self.ptx_sampler.load_state_dict(state.ptx_sampler)

    def set_train(self, mode: bool = True) -> None:
        """Set the mode of what is trained; recomputation of activations is off in rollouts."""
        for role, engine in self.trained().items():
            engine.train(mode)
            if getattr(self.args, f"{role}_gradient_checkpointing"):
                set_gradient_checkpointing(engine, mode)

    # -- rollouts ---------------------------------------------------------------------

    def split_rl_micro_batches(self, prompt_only_batch: Batch) -> list[Rollout]:
        """Roll out a prompt batch in micro-batches."""
        rows = rl_data.prompts_of_micro_batch(self.args, self.WHOLE_GROUPS)
        batches = rl_data.split_rows(prompt_only_batch, rows)
        return [rollout for batch in batches for rollout in self.rollout(batch)]

    def split_ptx_micro_batches(self, ptx_batch: Batch) -> list[Batch]:
        """Cut a supervised batch to the size of one backward pass."""
        return rl_data.split_rows(ptx_batch, self.args.per_device_train_batch_size)

    @property
    def on_policy(self) -> bool:
        """Whether the next micro-batch to roll out is used once, and before the next update.

        Then the forward pass of its training step gives the numbers of the models that it was
        rolled out with, which are all updated together.
        """
        before = passes_since_update(self.actor_model) + self.waiting
        return self.used_once and before < self.actor_model.gradient_accumulation_steps()

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses to a batch of prompts, size = (B·n, L), and their mask."""
        return sample(
            unwrap(self.actor_model),
            prompt_only_batch["input_ids"],
            prompt_only_batch["attention_mask"],
            self.generation_config,
        )

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Rollout]:
        """Draw responses and gather what the update needs."""
        sequences, mask = self.generate(prompt_only_batch)
        copies, prompt = self.args.num_return_sequences, prompt_only_batch["input_ids"]
        parts = [slice(i, None, copies) for i in range(copies)]
        if self.WHOLE_GROUPS:
            prompt, parts = prompt.repeat_interleave(copies, dim=0), [slice(None)]
        batches: list[Rollout] = []
        for part in parts:
            batches.append(self.post_rollout(prompt, sequences[part], attention_mask=mask[part]))
            self.waiting += 1 + self.use_ptx
            for observer in self.observers:
                observer.rolled_out(batches[-1])
        return batches

    @abc.abstractmethod
    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Rollout:
        """Score a rolled-out batch."""

    @abc.abstractmethod
    def rl_step(self, rl_batch: Rollout) -> dict[str, float]:
        """One step of all that is trained; the result has ``train/reward``."""

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """One step of the actor on supervised text."""
        return text_step(self.actor_model, ptx_batch, self.ptx_coeff)

    @abc.abstractmethod
    def eval_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Values to average over the evaluation prompts, size = (B,) each."""

    # -- loops ------------------------------------------------------------------------

    def _prompt_batches(self) -> Iterator[Batch]:
        while self.global_step < self.total_steps:
            self.data_sampler.set_epoch(self.epoch)
            yield from self.prompt_only_dataloader
            self.epoch += 1
            self.log_evaluation(self.args.eval_strategy == "epoch")

    def train(self) -> None:
        """Train until the last step."""
        bar = progress_bar(
            total=self.total_steps,
            desc=f"Training {self.TRAINING_TYPE}",
            disable=not self.args.progress,
        )
        bar.update(self.global_step)
        self.log_evaluation(self.global_step == 0)
        texts: Iterator[Batch | None] = itertools.repeat(None)
        if self.use_ptx:
            texts = rl_data.endless(self.ptx_dataloader, self.ptx_sampler)
        for prompts, ptx in zip(self._prompt_batches(), texts, strict=False):
            if self.global_step >= self.total_steps:
                break
            self.go_on()
            self.set_eval()
            rl_batches = self.split_rl_micro_batches(to_device(prompts, self.args.device))
            ptx_batches: list[Batch | None] = [None] * len(rl_batches)
            if ptx is not None:
                ptx_batches = list(self.split_ptx_micro_batches(to_device(ptx, self.args.device)))
            self.set_train()
            steps = list(zip(rl_batches, itertools.cycle(ptx_batches))) * self.args.update_iters
            for rl_batch, ptx_batch in steps[: self.total_steps - self.global_step]:
                info = self.rl_step(rl_batch)
                if ptx_batch is not None:
                    info |= self.ptx_step(ptx_batch)
                self._after_step(info, bar)
            self.save_if_due()
        bar.close()
        self.part.trained()

    def _after_step(self, info: dict[str, float], bar: Any) -> None:
        self.global_step += 1
        info["train/epoch"] = self.global_step / self.steps_per_epoch
        self.logger.log(info, step=self.global_step)
        self.check_step(info)
        bar.set_postfix_str(f"reward {info['train/reward']:.3f}", refresh=False)
        bar.update(1)
        due = self.global_step % self.args.eval_interval == 0
        self.log_evaluation(self.args.eval_strategy == "steps" and due)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean scores of responses to the evaluation prompts, drawn as in training."""
        if self.eval_dataloader is None:
            return {}
        self.set_eval()
        collected: dict[str, list[torch.Tensor]] = {}
        for batch in self.eval_dataloader:
            batch = to_device(batch, self.args.device)
            sequences, mask = self.generate(batch)
            found = self.eval_rollout(batch["input_ids"], sequences, attention_mask=mask)
            for key, values in found.items():
                collected.setdefault(key, []).append(values)
        self.set_train()
        return all_reduce_means({key: torch.cat(values) for key, values in collected.items()})

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Save the actor."""
        super().save(model=self.actor_model if model is None else model, ds_config=ds_config)
