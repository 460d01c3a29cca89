"""Supervised fine-tuning on prompts and answers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from safe_rlhf_panacea.base.configs.constants import IGNORE_INDEX
from safe_rlhf_panacea.base.datasets import SupervisedDataset
from safe_rlhf_panacea.base.trainers.supervised import SupervisedTrainer


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the next token, mean over the labelled ones.

    Args:
        logits: size = (B, L, V).
        labels: size = (B, L), ``IGNORE_INDEX`` where a token does not count.
    """
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )


class SupervisedFinetuneTrainer(SupervisedTrainer):
    """Trains all weights of a causal language model on answers."""

    TRAINING_TYPE: ClassVar[str] = "sft"
    DATASET_TYPE: ClassVar[Any] = SupervisedDataset

    def loss(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,  # size = (B, L)
        labels: torch.Tensor,  # size = (B, L)
        attention_mask: torch.Tensor,  # size = (B, L)
    ) -> dict[str, torch.Tensor]:
        """Mean cross entropy per answer token, in nats."""
        logits = self.model(input_ids, attention_mask=attention_mask, use_cache=False).logits
        return {"loss": next_token_loss(logits, labels)}
