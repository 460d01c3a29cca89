"""Supervised fine-tuning on prompts and answers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.losses import next_token_loss
from safe_rlhf_panacea.base.trainers.supervised import SupervisedTrainer
from safe_rlhf_panacea.base.trainers.updates import Batch
from safe_rlhf_panacea.data import SupervisedDataset
from safe_rlhf_panacea.forward import answer_log_probs, answer_tokens


class SupervisedFinetuneTrainer(SupervisedTrainer):
    """Trains all weights of a causal language model on answers."""

    TRAINING_TYPE: ClassVar[str] = "sft"
    DATASET_TYPE: ClassVar[Any] = SupervisedDataset

    def count(self, batch: Batch) -> torch.Tensor:
        """Tokens of the answers."""
        return answer_tokens(batch["labels"]).sum()

    def loss(
        self,
        input_ids: torch.Tensor,  # size = (B, L)
        labels: torch.Tensor,  # size = (B, L)
        attention_mask: torch.Tensor,  # size = (B, L)
        counts: torch.Tensor | None = None,  # size = (), tokens
    ) -> dict[str, torch.Tensor]:
        """Mean cross entropy per answer token, in nats."""
        found = answer_log_probs(self.model, input_ids, labels, attention_mask)
        return {"loss": next_token_loss(*found, counts)}
