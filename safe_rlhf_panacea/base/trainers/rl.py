"""The loop of reinforcement learning from rewards: roll out, then update actor and critic."""

from __future__ import annotations

import abc
import argparse
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from safe_rlhf_panacea.base.checkpoint import TrainingState
from safe_rlhf_panacea.base.datasets import (
    PromptOnlyDataset,
    ResumableSampler,
    SupervisedDataset,
)
from safe_rlhf_panacea.base.distributed import all_reduce_means, get_rank, get_world_size
from safe_rlhf_panacea.base.engine import init_train_engine, set_gradient_checkpointing, unwrap
from safe_rlhf_panacea.base.generation import SamplingConfig, sample
from safe_rlhf_panacea.base.progress import progress_bar
from safe_rlhf_panacea.base.trainers.base import TrainerBase
from safe_rlhf_panacea.base.trainers.supervised import build_loader, run_length, to_device
from safe_rlhf_panacea.errors import UserError

Batch = dict[str, Any]


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """Cut a batch into micro-batches of at most ``rows`` rows."""
    total = next(iter(batch.values())).size(0)
    return [{k: v[i : i + rows] for k, v in batch.items()} for i in range(0, total, rows)]


def has_dropout(module: nn.Module) -> bool:
    """Whether training mode changes the output."""
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules())


class RLTrainer(TrainerBase):
    """Base of the reinforcement-learning trainers.

    Hooks for subclasses: ``init_actor``, ``init_reference``, ``init_rewards`` and
    ``init_critic`` load the models; ``post_rollout``, ``rl_step``, ``ptx_step`` and
    ``eval_step`` do the work.
    """

    TRAINING_TYPE: ClassVar[str] = "rl"

    actor_model: Any
    actor_reference_model: Any
    reward_model: Any
    reward_critic_model: Any

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
        self.clip_range_score = args.clip_range_score
        self.clip_range_value = args.clip_range_value
        self.ptx_coeff = args.ptx_coeff
        self.gamma = 1.0
        self.gae_lambda = 0.95

    # -- set-up -----------------------------------------------------------------------

    def init_models(self) -> None:
        """Load actor, reference, rewards and critic, in this order."""
        self.init_actor()
        self.init_reference()
        self.init_rewards()
        self.init_critic()
        self.generation_config = SamplingConfig(
            max_length=self.args.max_length,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            temperature=self.args.temperature,
            top_p=self.args.top_p,
            repetition_penalty=self.args.repetition_penalty,
            num_return_sequences=self.args.num_return_sequences,
        )

    @abc.abstractmethod
    def init_actor(self) -> None:
        """Load the policy and its tokenizer."""

    @abc.abstractmethod
    def init_reference(self) -> None:
        """Provide the reference that the KL term is held against."""

    @abc.abstractmethod
    def init_rewards(self) -> None:
        """Load what scores a response."""

    @abc.abstractmethod
    def init_critic(self) -> None:
        """Load the value model."""

    def init_datasets(self) -> None:
        """Load prompts and, if asked for, supervised text for the PTX loss."""
        args = self.args
        rows = args.per_device_prompt_batch_size * args.num_return_sequences
        if rows % args.per_device_train_batch_size:
            raise UserError(
                f"--per_device_prompt_batch_size times --num_return_sequences is {rows}, which is "
                f"no multiple of --per_device_train_batch_size {args.per_device_train_batch_size}"
            )
        prompts = PromptOnlyDataset(args.train_datasets, tokenizer=self.tokenizer, seed=args.seed)
        eval_prompts = None
        if args.need_eval and args.eval_datasets is None:
            prompts, eval_prompts = prompts.split_train_test(args.eval_split_ratio)
        elif args.need_eval:
            eval_prompts = PromptOnlyDataset(
                args.eval_datasets, tokenizer=self.tokenizer, seed=args.seed
            )
        self.prompt_only_dataloader, self.data_sampler = build_loader(
            prompts, args.per_device_prompt_batch_size, args.seed
        )
        self.eval_dataloader = None
        if eval_prompts is not None:
            self.eval_dataloader, _ = build_loader(
                eval_prompts, args.per_device_eval_batch_size, args.seed, shuffle=False
            )
        self._init_ptx(rows)
        micro_batches = rows // args.per_device_train_batch_size
        per_epoch = len(self.prompt_only_dataloader) * micro_batches * args.update_iters
        self.total_steps = args.total_training_steps = run_length(args, per_epoch)
        # One update per rollout: old and new log-probabilities are the same numbers then,
        # and one forward pass gives both.
        self.on_policy = (
            args.update_iters == 1
            and args.gradient_accumulation_steps % micro_batches == 0
            and not has_dropout(self.actor_model)
        )

    def _init_ptx(self, rows: int) -> None:
        self.ptx_dataloader: DataLoader | None = None
        self.use_ptx = self.args.ptx_datasets is not None
        if self.use_ptx:
            dataset = SupervisedDataset(
                self.args.ptx_datasets, tokenizer=self.tokenizer, seed=self.args.seed
            )
            self.ptx_dataloader, self.ptx_sampler = build_loader(dataset, rows, self.args.seed)

    def init_engines(self) -> None:
        """Make the engines of actor and critic.

        With PTX the actor sees twice as many backward passes per update.
        """
        args = self.args
        actor_config = dict(self.ds_train_config)
        if self.use_ptx:
            args.gradient_accumulation_steps *= 2
            actor_config["train_batch_size"] *= 2
            actor_config["gradient_accumulation_steps"] *= 2
        updates = self.total_steps // self.ds_train_config["gradient_accumulation_steps"]
        self.actor_model = self._train_engine(self.actor_model, "actor", actor_config, updates)
        self.reward_critic_model = self._train_engine(
            self.reward_critic_model, "critic", self.ds_train_config, updates
        )

    def _train_engine(self, model: nn.Module, role: str, ds_config: Batch, updates: int) -> Any:
        options = {
            name: getattr(self.args, f"{role}_{name}")
            for name in ("lr", "weight_decay", "lr_scheduler_type", "lr_warmup_ratio")
        }
        model.to(self.args.device)
        engine = init_train_engine(model, ds_config, update_steps=updates, **options)
        if getattr(self.args, f"{role}_gradient_checkpointing"):
            set_gradient_checkpointing(engine, True)
        return engine

    def checkpoint_engines(self) -> dict[str, Any]:
        """Actor and critic."""
        return {"actor": self.actor_model, "critic": self.reward_critic_model}

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
        """Set the mode of actor and critic; recomputation of activations is off in rollouts."""
        for role, engine in (("actor", self.actor_model), ("critic", self.reward_critic_model)):
            engine.train(mode)
            if getattr(self.args, f"{role}_gradient_checkpointing"):
                set_gradient_checkpointing(engine, mode)

    # -- rollouts ---------------------------------------------------------------------

    def split_rl_micro_batches(self, prompt_only_batch: Batch) -> list[Batch]:
        """Roll out a prompt batch in micro-batches."""
        micro_batches = []
        for batch in split_rows(prompt_only_batch, self.args.per_device_train_batch_size):
            micro_batches.extend(self.rollout(batch))
        return micro_batches

    def split_ptx_micro_batches(self, ptx_batch: Batch) -> list[Batch]:
        """Cut a supervised batch to the size of one backward pass."""
        return split_rows(ptx_batch, self.args.per_device_train_batch_size)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses to a batch of prompts, size = (B·n, L), and their mask."""
        return sample(
            unwrap(self.actor_model),
            prompt_only_batch["input_ids"],
            prompt_only_batch["attention_mask"],
            self.generation_config,
        )

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Batch]:
        """Draw responses and gather what the update needs; one batch per response of a prompt."""
        sequences, mask = self.generate(prompt_only_batch)
        copies = self.args.num_return_sequences
        prompt = prompt_only_batch["input_ids"]
        return [
            self.post_rollout(prompt, sequences[i::copies], attention_mask=mask[i::copies])
            for i in range(copies)
        ]

    @abc.abstractmethod
    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Score a rolled-out batch."""

    @abc.abstractmethod
    def rl_step(self, rl_batch: Batch) -> dict[str, float]:
        """One update of actor and critic; the result has ``train/reward``."""

    @abc.abstractmethod
    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """One update of the actor on supervised text."""

    @abc.abstractmethod
    def eval_step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Batch:
        """Values to average over the evaluation prompts, size = (B,) each."""

    # -- loops ------------------------------------------------------------------------

    def _ptx_batches(self) -> Iterator[Batch | None]:
        if self.ptx_dataloader is None:
            yield from itertools.repeat(None)
            return
        for epoch in itertools.count(self.ptx_sampler.epoch):
            self.ptx_sampler.set_epoch(epoch)
            yield from self.ptx_dataloader

    def _prompt_batches(self) -> Iterator[Batch]:
        while self.global_step < self.total_steps:
            self.data_sampler.set_epoch(self.epoch)
            yield from self.prompt_only_dataloader
            self.epoch += 1
            if self.args.need_eval and self.args.eval_strategy == "epoch":
                self.logger.log(self.eval(), step=self.global_step)

    def train(self) -> None:
        """Train until the last step."""
        bar = progress_bar(
            total=self.total_steps,
            desc=f"Training {self.TRAINING_TYPE}",
            disable=not self.args.progress,
        )
        device = self.args.device
        bar.update(self.global_step)
        if self.args.need_eval and self.global_step == 0:
            self.logger.log(self.eval(), step=self.global_step)
        for prompts, ptx in zip(self._prompt_batches(), self._ptx_batches(), strict=False):
            if self.global_step >= self.total_steps:
                break
            self.go_on()
            self.set_eval()
            rl_batches = self.split_rl_micro_batches(to_device(prompts, device))
            ptx_batches: list[Batch | None] = [None] * len(rl_batches)
            if ptx is not None:
                ptx_batches = list(self.split_ptx_micro_batches(to_device(ptx, device)))
            self.set_train()
            for _ in range(self.args.update_iters):
                for rl_batch, ptx_batch in zip(rl_batches, itertools.cycle(ptx_batches)):
                    info = self.rl_step(rl_batch)
                    if ptx_batch is not None:
                        info |= self.ptx_step(ptx_batch)
                    self._after_step(info, bar)
            self.save_if_due()
        bar.close()

    def _after_step(self, info: dict[str, float], bar: Any) -> None:
        self.global_step += 1
        info["train/epoch"] = self.global_step / self.total_steps * self.args.epochs
        self.logger.log(info, step=self.global_step)
        self.check_step(info)
        bar.set_postfix_str(f"reward {info['train/reward']:.3f}", refresh=False)
        bar.update(1)
        due = self.global_step % self.args.eval_interval == 0
        if self.args.need_eval and self.args.eval_strategy == "steps" and due:
            self.logger.log(self.eval(), step=self.global_step)

    @torch.no_grad()
    def eval(self) -> dict[str, float]:
        """Mean scores of responses to the evaluation prompts, drawn as in training."""
        if self.eval_dataloader is None:
            return {}
        self.set_eval()
        collected: dict[str, list[torch.Tensor]] = {}
        for batch in self.eval_dataloader:
            sequences, mask = self.generate(to_device(batch, self.args.device))
            for key, values in self.eval_step(sequences, mask).items():
                collected.setdefault(key, []).append(values)
        self.set_train()
        return all_reduce_means({key: torch.cat(values) for key, values in collected.items()})

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Save the actor."""
        super().save(model=self.actor_model if model is None else model, ds_config=ds_config)
