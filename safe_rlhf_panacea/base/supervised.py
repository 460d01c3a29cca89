"""The trainers whose batches come with their targets: their loop, SFT and reward models."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from safe_rlhf_panacea.base.engine import (
    Batch,
    counted,
    init_train_engine,
    set_gradient_checkpointing,
    step_info,
)
from safe_rlhf_panacea.base.losses import mean_over_update, next_token_loss, preference_loss
from safe_rlhf_panacea.base.setup import load_model
from safe_rlhf_panacea.base.trainer import TrainerBase
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.data import PreferenceDataset, ResumableSampler, SupervisedDataset
from safe_rlhf_panacea.distributed import all_reduce_means, get_rank, get_world_size, own_device
from safe_rlhf_panacea.forward import across, answer_log_probs, answer_tokens
from safe_rlhf_panacea.models import AutoModelForScore
from safe_rlhf_panacea.runs.logger import progress_bar


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch."""
    return {
        k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()
    }


def build_loader(
    dataset: Any, batch_size: int, seed: int, *, shuffle: bool = True
) -> tuple[DataLoader[Any], ResumableSampler]:
    """A loader over this process's share of a data set, and the sampler that knows where it is."""
    sampler = ResumableSampler(
        len(dataset), seed=seed, shuffle=shuffle, rank=get_rank(), world_size=get_world_size()
    )
    collate = dataset.get_collator()
    return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=collate), sampler


def train_and_eval(
    args: TrainConfig, make: Callable[[Any], Any], batch_size: int
) -> tuple[DataLoader[Any], ResumableSampler, DataLoader[Any] | None]:
    """The loader of the training data, its sampler, and with ``need_eval`` the evaluation's loader.

    ``make`` makes a data set of the values of ``train_datasets`` or ``eval_datasets``.
    """
    train_data, eval_loader = make(args.train_datasets), None
    if args.need_eval:
        if args.eval_datasets is None:
            train_data, eval_data = train_data.split_train_test(args.eval_split_ratio)
        else:
            eval_data = make(args.eval_datasets)
        rows = args.per_device_eval_batch_size
        eval_loader, _ = build_loader(eval_data, rows, args.seed, shuffle=False)
    return *build_loader(train_data, batch_size, args.seed), eval_loader


def run_length(args: TrainConfig, steps_per_epoch: int) -> int:
    """Training steps in a run: all epochs, or ``max_steps`` whether more or less."""
    return args.max_steps or args.epochs * steps_per_epoch


class SupervisedTrainer(TrainerBase):
    """A trainer with one engine and a loss on a batch.

    Subclasses give ``DATASET_TYPE``, ``count`` and ``loss``, which returns a dictionary of tensors
    with ``loss`` among them. The mean of every entry over all processes is logged, and nothing
    where it is empty on all of them.
    """

    TRAINING_TYPE: ClassVar[str] = "supervised"
    DATASET_TYPE: ClassVar[Any]

    model: Any
    train_dataloader: DataLoader[Any]
    eval_dataloader: DataLoader[Any] | None

    def __init__(
        self,
        args: TrainConfig,
        ds_train_config: dict[str, Any],
        ds_eval_config: dict[str, Any] | None = None,
    ) -> None:
        self.args = args
        self.ds_config = self.ds_train_config = ds_train_config
        self.ds_eval_config = ds_eval_config
        self.run_init_hooks()

    def init_models(self) -> None:
        self.model, self.tokenizer = load_model(self.args, self.args.model_name_or_path)

    def make_dataset(self, specs: list[str]) -> Any:
        return self.DATASET_TYPE(
            specs, tokenizer=self.tokenizer, seed=self.args.seed, template=self.template
        )

    def init_datasets(self) -> None:
        rows = self.args.per_device_train_batch_size
        loaders = train_and_eval(self.args, self.make_dataset, rows)
        self.train_dataloader, self.data_sampler, self.eval_dataloader = loaders

    def init_engines(self) -> None:
        self.total_steps = run_length(self.args, len(self.train_dataloader))
        updates = math.ceil(self.total_steps / self.args.gradient_accumulation_steps)
        self.model = init_train_engine(self.model, self.args, self.ds_train_config, updates)

    def checkpoint_engines(self) -> dict[str, Any]:
        return {"model": self.model}

    def set_train(self, mode: bool = True) -> None:
        """Set the engine's mode; activations are recomputed only when training."""
        self.model.train(mode)
        if self.args.gradient_checkpointing:
            set_gradient_checkpointing(self.model, mode)

    def count(self, batch: Batch) -> Tensor:
        """How much a batch has of what the loss is a mean over: its rows, unless overridden."""
        return torch.tensor(len(next(iter(batch.values()))))

    def counted(self, batches: Sequence[Batch]) -> list[Batch]:
        return counted(batches, self.count, own_device())

    @abc.abstractmethod
    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """The loss on a batch, under the key ``loss``, and what else is worth logging.

        With ``counts`` in the batch it is the batch's share in the mean over its update.
        """

    def train_step(self, **batch: Tensor) -> dict[str, float]:
        """One forward and backward pass, and an update when enough are accumulated."""
        losses = self.loss(**batch)
        self.model.backward(losses["loss"])
        self.model.step()
        return step_info(losses, self.model)

    # -- the loop ---------------------------------------------------------------------

    def _batches(self) -> Iterator[Batch]:
        """Epoch after epoch, without end."""
        while True:
            self.data_sampler.set_epoch(self.epoch)
            for batch in self.train_dataloader:
                self.go_on()
                yield to_device(batch, own_device())
            self.epoch += 1

    def _log_epoch(self) -> None:
        ended = self.global_step % len(self.train_dataloader) == 0
        self.log_evaluation(ended and self.args.eval_strategy == "epoch")

    def _log_interval(self) -> None:
        due = self.global_step % self.args.eval_interval == 0
        self.log_evaluation(due and self.args.eval_strategy == "steps")

    def train(self) -> None:
        title = f"Training {self.TRAINING_TYPE}"
        bar = progress_bar(total=self.total_steps, desc=title, disable=not self.args.progress)
        self.set_train()
        bar.update(self.global_step)
        self.log_evaluation(self.global_step == 0)
        if self.global_step > 0:  # resumed: an evaluation that comes after the checkpoint
            self._log_epoch()
            if self.global_step == self.total_steps:
                self._log_interval()
        batches = itertools.islice(self._batches(), self.total_steps - self.global_step)
        # The batches of an update are read before the first of them is used.
        while update := list(itertools.islice(batches, self.model.gradient_accumulation_steps())):
            for batch in self.counted(update):
                info = self.train_step(**batch)
                self.global_step += 1
                info["train/epoch"] = self.global_step / len(self.train_dataloader)
                self.logger.log(info, step=self.global_step)
                self.check_step(info)
                bar.set_postfix_str(f"loss {info['train/loss']:.4f}", refresh=False)
                bar.update(1)
                self._log_interval()
                self.save_if_due()
                self._log_epoch()
        bar.close()
        self.trained()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The mean of every logged value over the evaluation data."""
        if self.eval_dataloader is None:
            return {}
        self.set_eval()
        found: dict[str, list[Tensor]] = {}
        for batch in self.counted(list(self.eval_dataloader)):
            for key, value in self.loss(**to_device(batch, own_device())).items():
                found.setdefault(f"eval/{key}", []).append(value.flatten())
        self.set_train()
        return all_reduce_means({key: torch.cat(values) for key, values in found.items()})


class SupervisedFinetuneTrainer(SupervisedTrainer):
    """Trains all weights of a causal language model on answers."""

    TRAINING_TYPE: ClassVar[str] = "sft"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.base.finetune"
    DATASET_TYPE: ClassVar[Any] = SupervisedDataset

    def count(self, batch: Batch) -> Tensor:
        """Tokens of the answers."""
        return answer_tokens(batch["labels"]).sum()

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """Mean cross entropy per answer token, in nats; ids, labels and mask, size = (B, L)."""
        texts = (batch[key] for key in ("input_ids", "labels", "attention_mask"))
        return {"loss": next_token_loss(*answer_log_probs(self.model, *texts), batch.get("counts"))}


class RewardTrainer(SupervisedTrainer):
    """Trains all weights of a score model on the labels of ``args.objective``."""

    TRAINING_TYPE: ClassVar[str] = "reward"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.base.values.reward"

    def init_models(self) -> None:
        """Load a reward model, or a language model to which a fresh score head is added."""
        self.model, self.tokenizer = load_model(
            self.args,
            self.args.model_name_or_path,
            auto_model_type=AutoModelForScore,
            auto_model_kwargs={"score_type": "reward", "fresh_head": True},
        )

    def make_dataset(self, specs: list[str]) -> PreferenceDataset:
        objectives, seed = (self.args.objective,), self.args.seed
        return PreferenceDataset(specs, self.tokenizer, objectives, seed, template=self.template)

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """-log σ(r_better - r_worse), with a penalty on large scores if asked for."""
        ids, mask = (
            torch.cat([batch[f"{side}_{what}"] for side in ("better", "worse")])
            for what in ("input_ids", "attention_mask")
        )  # size = (2B, L)
        output = self.model(ids, attention_mask=mask, groups=across(len(ids), 2))
        scores = output.end_scores.squeeze(-1)  # size = (2B,)
        better, worse = scores.chunk(2)
        counts = batch.get("counts")  # rows, size = ()
        loss = mean_over_update(preference_loss(better - worse), counts)
        if self.args.regularization > 0:
            both = None if counts is None else 2 * counts  # responses
            loss = loss + self.args.regularization * mean_over_update(scores.square(), both)
        accuracy = (better > worse).float()
        return {"loss": loss, "accuracy": accuracy, "better_score": better, "worse_score": worse}
