"""The two trainers of what comes before an alignment: supervised fine-tuning and reward models."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.losses import mean_over_update, next_token_loss, preference_loss
from safe_rlhf_panacea.base.supervised import SupervisedTrainer
from safe_rlhf_panacea.base.updates import Batch
from safe_rlhf_panacea.data import PreferenceDataset, SupervisedDataset
from safe_rlhf_panacea.forward import across, answer_log_probs, answer_tokens
from safe_rlhf_panacea.models import AutoModelForScore


class SupervisedFinetuneTrainer(SupervisedTrainer):
    """Trains all weights of a causal language model on answers."""

    TRAINING_TYPE: ClassVar[str] = "sft"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.base.finetune"
    DATASET_TYPE: ClassVar[Any] = SupervisedDataset

    def count(self, batch: Batch) -> torch.Tensor:
        """Tokens of the answers."""
        return answer_tokens(batch["labels"]).sum()

    def loss(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean cross entropy per answer token, in nats; ids, labels and mask, size = (B, L)."""
        texts = (batch[key] for key in ("input_ids", "labels", "attention_mask"))
        found = answer_log_probs(self.model, *texts)
        return {"loss": next_token_loss(*found, batch.get("counts"))}


class RewardTrainer(SupervisedTrainer):
    """Trains all weights of a score model on the labels of ``args.objective``."""

    TRAINING_TYPE: ClassVar[str] = "reward"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.base.values.reward"
    DATASET_TYPE: ClassVar[Any] = PreferenceDataset
    MODEL_TYPE: ClassVar[Any] = AutoModelForScore

    def init_models(self) -> None:
        """Load a reward model, or a language model to which a fresh score head is added."""
        self.model, self.tokenizer = self.load_model(
            auto_model_kwargs={"score_type": "reward", "fresh_head": True}
        )

    def make_dataset(self, specs: list[str]) -> PreferenceDataset:
        """Pairs that carry this objective's label."""
        return PreferenceDataset(
            specs,
            tokenizer=self.tokenizer,
            objectives=(self.args.objective,),
            seed=self.args.seed,
            template=self.template,
        )

    def loss(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """-log σ(r_better - r_worse), with a penalty on large scores if asked for."""
        ids, mask = (
            torch.cat([batch[f"{side}_{what}"] for side in ("better", "worse")])
            for what in ("input_ids", "attention_mask")
        )  # size = (2B, L)
        scores = self.model(
            ids, attention_mask=mask, groups=across(len(ids), 2)
        ).end_scores.squeeze(-1)  # size = (2B,)
        better, worse = scores.chunk(2)
        counts = batch.get("counts")  # rows, size = ()
        loss = mean_over_update(preference_loss(better - worse), counts)
        if self.args.regularization > 0:
            both = None if counts is None else 2 * counts  # responses
            loss = loss + self.args.regularization * mean_over_update(scores.square(), both)
        return {
            "loss": loss,
            "accuracy": (better > worse).float(),
            "better_score": better,
            "worse_score": worse,
        }
