"""Safe-RLHF's DPO trainer with hooks for the reference, the data set and the batch's labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safe_rlhf.algorithms.dpo.trainer import DPOTrainer
from safe_rlhf.trainers import SupervisedTrainer, supervised_trainer

from safe_rlhf_panacea.base.engine import Batch, counted, passes_since_update
from safe_rlhf_panacea.distributed import own_device
from safe_rlhf_panacea.on_safe_rlhf.record import Recorded, load_policy, own_rates


class CountedLoader:
    """Safe-RLHF's loader; an update's batches are read and counted before the first is used.

    Where an update goes on in the next epoch, its two parts are counted one by one.
    """

    def __init__(self, loader: Any, trainer: HookedDPOTrainer) -> None:
        self.loader, self.trainer, self.dataset = loader, trainer, loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches, trainer = iter(self.loader), self.trainer
        while True:
            engine = trainer.model
            left = engine.gradient_accumulation_steps() - passes_since_update(engine)
            update = list(itertools.islice(batches, left))
            if not update:
                return
            yield from counted(update, trainer.count, own_device())


class HookedDPOTrainer(Recorded, DPOTrainer):
    """Safe-RLHF's ``DPOTrainer``: its loop, loaders, engine and logger.

    A subclass brings the reference (``init_reference``), the data set (``make_dataset``),
    ``train_step`` and ``loss``, and what that is a mean over (``count``).
    """

    train_dataloader: Any
    loss: Callable[..., dict[str, torch.Tensor]]

    def init_models(self) -> None:
        """Load the policy once, where Safe-RLHF loads it twice."""
        self.model, self.tokenizer = load_policy(self.args, self.args.model_name_or_path)
        self.init_reference()

    def init_datasets(self) -> None:
        """Make the data sets with ``make_dataset``, the loaders as Safe-RLHF does."""
        self.DATASET_TYPE = lambda specs, tokenizer: self.make_dataset(specs)
        super().init_datasets()
        self.train_dataloader = CountedLoader(self.train_dataloader, self)

    def init_engines(self) -> None:
        """Make the policy's engine; there is no second model to wrap."""
        with own_rates(supervised_trainer, self.args.lr):
            SupervisedTrainer.init_engines(self)
