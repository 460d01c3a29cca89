"""Panacea-DPO (Algorithm 1 with Eq. 14 and 16): one pass over a pair serves all m."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from safe_rlhf_panacea.aggregation import label_counts
from safe_rlhf_panacea.algorithms.trainer import PanaceaTrainer
from safe_rlhf_panacea.base import LabelledPreferenceDataset
from safe_rlhf_panacea.base.engine import Batch, step_info
from safe_rlhf_panacea.base.losses import (
    Pairs,
    labelled_margins,
    preference_loss,
    reward_statistics,
    summed_log_ratios,
)
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.forward import log_probs
from safe_rlhf_panacea.fronts.measure import PROMPTS_OF_PAIRS, measure, prompts_of_pairs
from safe_rlhf_panacea.fronts.measurement import Measurement, agreement

if TYPE_CHECKING:  # at run time Safe-RLHF's own, where it is installed
    from safe_rlhf_panacea.base.dpo import DPOTrainer as HookedDPOTrainer
else:
    from safe_rlhf_panacea.base import HookedDPOTrainer


class PanaceaDPOTrainer(PanaceaTrainer, HookedDPOTrainer):
    """DPO for m objectives that label the same pairs.

    The margin Δ between a pair's implicit rewards is the same for all objectives; objective i
    wants it positive or negative, as its label says. The reference is the policy, adapter off.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-dpo"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.algorithms.dpo"

    def __init__(self, args: DPOConfig, *ds_configs: dict[str, Any]) -> None:
        self.init_panacea(args, tuple(args.objectives or ()), args.model_name_or_path)
        super().__init__(args, *ds_configs)

    def init_reference(self) -> None:
        """Inject the adapter; switched off, the policy is its own reference."""
        self.panacea.attach(self.model, "policy", self.template)
        self.reference_model = None

    def make_dataset(self, specs: Any) -> LabelledPreferenceDataset:
        return LabelledPreferenceDataset(
            specs,
            tokenizer=self.tokenizer,
            objectives=self.panacea.objectives,
            seed=self.args.seed,
            counted=self.panacea.counted(self.args, specs),
            template=self.template,
        )

    def count(self, batch: Batch) -> Tensor:
        """Labels of each objective, and labelled pairs."""
        return label_counts(batch["labels"].ne(0))

    def train_step(self, **batch: Tensor) -> dict[str, Any]:
        """Draw λ where an update begins, and take the step at it."""
        panacea, labelled = self.panacea, batch["labels"].ne(0)  # size = (B, m)
        preference = panacea.draw(len(labelled), self.model, labelled=labelled)  # size = (B, m)
        with panacea.at(preference, rows_of_pairs(preference)):
            losses = self.loss(**batch)
            self.model.backward(losses["loss"])
            self.model.step()
        info = step_info({**losses, **panacea.by_name("preference", preference)}, self.model)
        return {**info, **panacea.progress_metrics(self.model)}

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """The m losses -log σ(±Δ) and their aggregate at the λ that holds (Eq. 14 or 16).

        ``batch`` has token ids and masks of both responses, size = (B, L) each; ``labels``, +1
        agrees, -1 disagrees, 0 missing, size = (B, m); ``counts``, the labels of each objective,
        and labelled pairs, in an average micro-batch of the update, size = (m + 1,).
        """
        panacea, labels = self.panacea, batch["labels"]
        labelled = labels.ne(0)
        pairs = Pairs.of(batch, upstream_slice=self.args.upstream_dpo_slice)
        # The reference goes first: the backward pass must find the policy as it was left.
        with torch.no_grad(), panacea.reference(unwrap(self.model)):
            reference = log_probs(self.model, *pairs)  # size = (2B, L - 1)
        policy = log_probs(self.model, *pairs)
        ratios = summed_log_ratios(policy, reference, pairs.counted)  # size = (2B,)
        better, worse = (self.scale_coeff * ratios).chunk(2)  # the implicit rewards
        margins = labelled_margins(better, worse, labels)  # ±Δ, size = (B, m)
        losses = preference_loss(margins)  # size = (B, m)
        return {
            "loss": panacea.loss(losses, labelled, batch.get("counts")),
            **reward_statistics(better, worse),
            **panacea.by_label("loss", losses.detach(), labelled),
            **panacea.by_label("accuracy", agreement(margins.detach()), labelled),
        }

    def measure_front(self) -> Measurement:
        """Accuracies on the evaluation pairs; a few of their prompts are responded to."""
        pairs, count = self.eval_dataloader.dataset, self.args.eval_prompts or PROMPTS_OF_PAIRS
        return measure(
            self.measured_policy(self.model),
            self.grid,
            prompts=prompts_of_pairs(pairs, count),
            pairs=pairs,
            margin_scale=self.scale_coeff,
        )


def rows_of_pairs(preference: Tensor) -> Tensor:
    """Which λ each row of a pass over B pairs has: all better responses, then all worse ones."""
    return torch.arange(len(preference), device=preference.device).repeat(2)
