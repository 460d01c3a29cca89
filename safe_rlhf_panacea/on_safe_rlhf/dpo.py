"""Safe-RLHF's DPO trainer with hooks for the reference, the data set and the batch's labels."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from safe_rlhf.algorithms.dpo.trainer import DPOTrainer
from safe_rlhf.models import load_pretrained_models
from safe_rlhf.trainers import SupervisedTrainer, supervised_trainer

from safe_rlhf_panacea.base.algorithms.dpo import reward_statistics
from safe_rlhf_panacea.base.distributed import all_reduce_means, own_device
from safe_rlhf_panacea.base.engine import passes_since_update
from safe_rlhf_panacea.base.functional import diverging_mask
from safe_rlhf_panacea.base.losses import summed_log_ratios
from safe_rlhf_panacea.base.trainers.updates import Batch, counted
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.on_safe_rlhf.rates import own_rates
from safe_rlhf_panacea.on_safe_rlhf.recompute import recompute_without_reentry
from safe_rlhf_panacea.on_safe_rlhf.record import Recorded

PAIR = ("better_input_ids", "better_attention_mask", "worse_input_ids", "worse_attention_mask")


class CountedLoader:
    """Safe-RLHF's loader; an update's batches are read before the first of them is used.

    Where an update goes on in the next epoch, its two parts are counted one by one.
    """

    def __init__(self, loader: Any, trainer: HookedDPOTrainer) -> None:
        """``trainer`` knows where updates end, and counts."""
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
    """Safe-RLHF's ``DPOTrainer``, its loop, logger and ``train_step`` included.

    A subclass brings the reference (``init_reference`` and ``reference``), the data set
    (``make_dataset``), a ``loss`` of whatever its batches hold, and what that is a mean over
    (``count``).
    """

    train_dataloader: Any
    loss: Callable[..., dict[str, torch.Tensor]]
    reward_statistics = staticmethod(reward_statistics)

    @abc.abstractmethod
    def init_reference(self) -> None:
        """Prepare the reference; ``self.model`` is loaded and in no engine yet."""

    @abc.abstractmethod
    def reference(self) -> AbstractContextManager[Any]:
        """A context in which the model that it gives is the reference."""

    @abc.abstractmethod
    def make_dataset(self, specs: Any) -> Any:
        """The data set of this trainer."""

    @abc.abstractmethod
    def count(self, batch: Batch) -> torch.Tensor:
        """How much a batch has of what the loss is a mean over."""

    def init_models(self) -> None:
        """Load the policy once, where Safe-RLHF loads it twice.

        Whole on every rank, also under ZeRO 3: an adapter is made to measure for whole weights.
        """
        self.model, self.tokenizer = load_pretrained_models(
            self.args.model_name_or_path,
            model_max_length=self.args.max_length,
            padding_side="left",
            trust_remote_code=self.args.trust_remote_code,
        )
        check_positions(self.model, self.args.max_length, self.args.model_name_or_path)
        recompute_without_reentry(self.model)
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

    def implicit_rewards(
        self,
        better_input_ids: torch.Tensor,  # size = (B, L)
        better_attention_mask: torch.Tensor,  # size = (B, L)
        worse_input_ids: torch.Tensor,  # size = (B, L)
        worse_attention_mask: torch.Tensor,  # size = (B, L)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """scale_coeff · log π(y|x)/π_ref(y|x) of both responses, size = (B,) each."""
        input_ids = torch.cat([better_input_ids, worse_input_ids])  # size = (2B, L)
        attention_mask = torch.cat([better_attention_mask, worse_attention_mask])
        masks = diverging_mask(
            better_input_ids,
            better_attention_mask,
            worse_input_ids,
            worse_attention_mask,
            upstream_slice=self.args.upstream_dpo_slice,
        )
        # The reference goes first: the backward pass must find the policy as it was left.
        with torch.no_grad(), self.reference() as model:
            reference = self.compute_log_probs(model, input_ids, attention_mask)
        policy = self.compute_log_probs(self.model.module, input_ids, attention_mask)
        rewards = self.scale_coeff * summed_log_ratios(policy, reference, torch.cat(masks))
        better, worse = rewards.chunk(2)
        return better, worse

    def train_step(self, **batch: torch.Tensor) -> dict[str, Any]:
        """Safe-RLHF's step; what it does not hand on to ``loss`` rides along.

        Everything that ``loss`` returns is logged, not only what Safe-RLHF knows of.
        """
        pair = {name: batch.pop(name) for name in PAIR}
        whole_loss = self.loss
        found: dict[str, torch.Tensor] = {}

        def loss(**pair: torch.Tensor) -> dict[str, torch.Tensor]:
            found.update(whole_loss(**pair, **batch))
            return {**found, "reward_accuracy": found["reward_accuracy"].mean()}

        self.loss = loss  # for this object and this call
        try:
            info = super().train_step(**pair)
        finally:
            del self.loss
        more = {name: value for name, value in found.items() if f"train/{name}" not in info}
        info |= {f"train/{k}": v for k, v in all_reduce_means(more).items()}
        return self.checked(info)
