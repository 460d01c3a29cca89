"""Reward modelling: the Bradley-Terry loss on pairs labelled for one objective."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.functional import mean_over_update
from safe_rlhf_panacea.base.losses import preference_loss
from safe_rlhf_panacea.base.trainers.supervised import SupervisedTrainer
from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.forward import across
from safe_rlhf_panacea.models import AutoModelForScore


class RewardTrainer(SupervisedTrainer):
    """Trains all weights of a score model on the labels of ``args.objective``."""

    TRAINING_TYPE: ClassVar[str] = "reward"
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

    def loss(
        self,
        better_input_ids: torch.Tensor,  # size = (B, L)
        better_attention_mask: torch.Tensor,  # size = (B, L)
        worse_input_ids: torch.Tensor,  # size = (B, L)
        worse_attention_mask: torch.Tensor,  # size = (B, L)
        counts: torch.Tensor | None = None,  # size = (), rows
        **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """-log σ(r_better - r_worse), with a penalty on large scores if asked for."""
        scores = self.model(
            torch.cat([better_input_ids, worse_input_ids]),
            attention_mask=torch.cat([better_attention_mask, worse_attention_mask]),
            groups=across(2 * len(better_input_ids), 2),
        ).end_scores.squeeze(-1)  # size = (2B,)
        better, worse = scores.chunk(2)
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
