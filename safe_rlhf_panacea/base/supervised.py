"""The loop of every trainer whose batches come with their targets: SFT, reward, DPO."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch.utils.data import DataLoader

from safe_rlhf_panacea.base.engine import init_train_engine, set_gradient_checkpointing
from safe_rlhf_panacea.base.setup import model_dtype
from safe_rlhf_panacea.base.trainer import TrainerBase
from safe_rlhf_panacea.base.updates import Batch, counted, step_info
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.data import ResumableSampler
from safe_rlhf_panacea.distributed import all_reduce_means, get_rank, get_world_size, own_device
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.runs.logger import progress_bar


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch."""
    return {
        k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v
        for k, v in batch.items()
    }


def build_loader(
    dataset: Any, batch_size: int, seed: int, *, shuffle: bool = True
) -> tuple[DataLoader[Any], ResumableSampler]:
    """A loader over this process's share of a data set, and the sampler that knows where it is."""
    sampler = ResumableSampler(
        len(dataset), seed=seed, shuffle=shuffle, rank=get_rank(), world_size=get_world_size()
    )
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=sampler, collate_fn=dataset.get_collator()
    )
    return loader, sampler


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
    MODEL_TYPE: ClassVar[Any] = None  # None: a causal language model
    PADDING_SIDE: ClassVar[Literal["left", "right"]] = "right"

    model: Any
    train_dataloader: DataLoader[Any]
    eval_dataloader: DataLoader[Any] | None

    def __init__(
        self,
        args: TrainConfig,
        ds_train_config: dict[str, Any],
        ds_eval_config: dict[str, Any] | None = None,
    ) -> None:
        """Run the hooks."""
        self.args = args
        self.ds_config = self.ds_train_config = ds_train_config
        self.ds_eval_config = ds_eval_config
        self.run_init_hooks()

    def init_models(self) -> None:
        """Load ``model_name_or_path`` and its tokenizer."""
        self.model, self.tokenizer = self.load_model()

    def load_model(self, **model_kwargs: Any) -> tuple[Any, Any]:
        """The model of this trainer's type, in the run's precision, with its tokenizer."""
        if self.MODEL_TYPE is not None:
            model_kwargs["auto_model_type"] = self.MODEL_TYPE
        model, tokenizer = load_pretrained_models(
            self.args.model_name_or_path,
            model_max_length=self.args.max_length,
            padding_side=self.PADDING_SIDE,
            trust_remote_code=self.args.trust_remote_code,
            dtype=model_dtype(self.args),
            **model_kwargs,
        )
        check_positions(model, self.args.max_length, self.args.model_name_or_path)
        return model, tokenizer

    def make_dataset(self, specs: list[str]) -> Any:
        """A data set of this trainer's type."""
        return self.DATASET_TYPE(
            specs, tokenizer=self.tokenizer, seed=self.args.seed, template=self.template
        )

    def init_datasets(self) -> None:
        """Load the training and evaluation data."""
        args = self.args
        train_dataset = self.make_dataset(args.train_datasets)
        eval_dataset = None
        if args.need_eval and args.eval_datasets is None:
            train_dataset, eval_dataset = train_dataset.split_train_test(args.eval_split_ratio)
        elif args.need_eval:
            eval_dataset = self.make_dataset(args.eval_datasets)
        self.train_dataloader, self.data_sampler = build_loader(
            train_dataset, args.per_device_train_batch_size, args.seed
        )
        self.eval_dataloader = None
        if eval_dataset is not None:
            self.eval_dataloader, _ = build_loader(
                eval_dataset, args.per_device_eval_batch_size, args.seed, shuffle=False
            )

    def init_engines(self) -> None:
        """Make the training engine."""
        args = self.args
        self.total_steps = run_length(args, len(self.train_dataloader))
        self.model.to(own_device())
        self.model = init_train_engine(
            self.model,
            self.ds_train_config,
            lr=args.lr,
            weight_decay=args.weight_decay,
            lr_scheduler_type=args.lr_scheduler_type,
            lr_warmup_ratio=args.lr_warmup_ratio,
            update_steps=math.ceil(self.total_steps / args.gradient_accumulation_steps),
        )
        if args.gradient_checkpointing:
            set_gradient_checkpointing(self.model, True)

    def checkpoint_engines(self) -> dict[str, Any]:
        """The only one."""
        return {"model": self.model}

    def count(self, batch: Batch) -> torch.Tensor:
        """How much a batch has of what the loss is a mean over: its rows, unless overridden."""
        return torch.tensor(len(next(iter(batch.values()))))

    def counted(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches of an update, each with what an average one of them counts."""
        return counted(batches, self.count, own_device())

    @abc.abstractmethod
    def loss(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss on a batch, under the key ``loss``, and what else is worth logging.

        With ``counts`` in the batch it is the batch's share in the mean over its update.
        """

    def train_step(self, **batch: torch.Tensor) -> dict[str, float]:
        """One forward and backward pass, and an update when enough are accumulated."""
        losses = self.loss(**batch)
        self.model.backward(losses["loss"])
        self.model.step()
        return self.logged(losses)

    def logged(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """What is logged of a step: the mean of each value over all processes, under ``train/``."""
        return step_info(values, self.model)

    def batches(self) -> Iterator[Batch]:
        """Batches until the run is over; an update's are read before the first of them is used."""
        if self.global_step > 0:  # resumed: an evaluation that comes after the checkpoint
            self._log_epoch()
            if self.global_step == self.total_steps:
                self._log_interval()
        reader = itertools.islice(self._read(), self.total_steps - self.global_step)
        accumulated = self.model.gradient_accumulation_steps()
        while update := list(itertools.islice(reader, accumulated)):
            for batch in self.counted(update):
                yield batch
                self._log_epoch()

    def _read(self) -> Iterator[Batch]:
        """Epoch after epoch, without end."""
        while True:
            self.data_sampler.set_epoch(self.epoch)
            for batch in self.train_dataloader:
                self.go_on()
                yield to_device(batch, own_device())
            self.epoch += 1

    def _log_epoch(self) -> None:
        """Evaluate if an epoch's last step was just taken."""
        ended = self.global_step % len(self.train_dataloader) == 0
        self.log_evaluation(ended and self.args.eval_strategy == "epoch")

    def _log_interval(self) -> None:
        """Evaluate if it is time for that after so many steps."""
        due = self.global_step % self.args.eval_interval == 0
        self.log_evaluation(due and self.args.eval_strategy == "steps")

    def train(self) -> None:
        """Train until the last step."""
        bar = progress_bar(
            total=self.total_steps,
            desc=f"Training {self.TRAINING_TYPE}",
            disable=not self.args.progress,
        )
        self.set_train()
        bar.update(self.global_step)
        self.log_evaluation(self.global_step == 0)
        for batch in self.batches():
            info = self.train_step(**batch)
            self.global_step += 1
            info["train/epoch"] = self.global_step / len(self.train_dataloader)
            self.logger.log(info, step=self.global_step)
            self.check_step(info)
            bar.set_postfix_str(f"loss {info['train/loss']:.4f}", refresh=False)
            bar.update(1)
            self._log_interval()
            self.save_if_due()
        bar.close()
        self.part.trained()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The mean of every logged value over the evaluation data."""
        if self.eval_dataloader is None:
            return {}
        self.set_eval()
        found: dict[str, list[torch.Tensor]] = {}
        for batch in self.counted(list(self.eval_dataloader)):
            for key, value in self.loss(**to_device(batch, own_device())).items():
                found.setdefault(f"eval/{key}", []).append(value.flatten())
        self.set_train()
        return all_reduce_means({key: torch.cat(values) for key, values in found.items()})

    def set_train(self, mode: bool = True) -> None:
        """Set the engine's mode; activations are recomputed only when training."""
        self.model.train(mode)
        if self.args.gradient_checkpointing:
            set_gradient_checkpointing(self.model, mode)
