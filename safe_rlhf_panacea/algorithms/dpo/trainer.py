"""Panacea-DPO (Algorithm 1 with Eq. 14 and 16): draw λ, set it, aggregate, delegate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from safe_rlhf_panacea.aggregation import label_counts
from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.algorithms.part import PanaceaPart
from safe_rlhf_panacea.base import Batch, LabelledPreferenceDataset, all_reduce_means, unwrap
from safe_rlhf_panacea.base.losses import labelled_margins, preference_loss
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.fronts.held_out import agreement
from safe_rlhf_panacea.fronts.measure import PROMPTS_OF_PAIRS, measure, prompts_of_pairs
from safe_rlhf_panacea.fronts.measurement import Measurement

if TYPE_CHECKING:  # at run time Safe-RLHF's own, where it is installed
    from safe_rlhf_panacea.base.dpo import DPOTrainer as HookedDPOTrainer
else:
    from safe_rlhf_panacea.base import HookedDPOTrainer


class PanaceaDPOTrainer(HookedDPOTrainer):
    """DPO for m objectives that label the same pairs.

    One forward pass over a pair gives the margin Δ between its implicit rewards; objective
    ``i`` wants it positive or negative according to its label, so m objectives cost what one
    costs. The reference is the policy with its adapter off.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-dpo"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.algorithms.dpo"

    part: PanaceaPart

    def __init__(self, args: DPOConfig, *ds_configs: dict[str, Any]) -> None:
        """Make what the hooks attach to, then run them."""
        self.panacea = Panacea(args, tuple(args.objectives or ()), args.model_name_or_path)
        self.part = PanaceaPart(self)
        super().__init__(args, *ds_configs)

    def init_reference(self) -> None:
        """Inject the adapter; switched off, the policy is its own reference."""
        self.panacea.attach(self.model, "policy", self.template)
        self.reference_model = None

    def make_dataset(self, specs: Any) -> LabelledPreferenceDataset:
        """Pairs labelled by at least one of the objectives that count."""
        return LabelledPreferenceDataset(
            specs,
            tokenizer=self.tokenizer,
            objectives=self.panacea.objectives,
            seed=self.args.seed,
            counted=self.panacea.counted(self.args, specs),
            template=self.template,
        )

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The policy with its adapter off."""
        with self.panacea.reference(unwrap(self.model)):
            yield self.model

    def train_step(self, **batch: torch.Tensor) -> dict[str, Any]:
        """Take the step at the batch's λ, drawn where an update begins."""
        labelled = batch["labels"].ne(0)  # size = (B, m)
        preference = self.panacea.draw(len(labelled), self.model, labelled=labelled)
        with self.panacea.at(preference, rows_of_pairs(preference)):
            info = super().train_step(**batch)
        drawn = all_reduce_means(self.panacea.by_name("train/preference", preference))
        return {**info, **drawn, **self.panacea.progress_metrics(self.model)}

    def count(self, batch: Batch) -> torch.Tensor:
        """Labels of each objective, and labelled pairs."""
        return label_counts(batch["labels"].ne(0))

    def loss(  # type: ignore[override]  # these batches have ``labels`` too
        self,
        better_input_ids: torch.Tensor,  # size = (B, L)
        better_attention_mask: torch.Tensor,  # size = (B, L)
        worse_input_ids: torch.Tensor,  # size = (B, L)
        worse_attention_mask: torch.Tensor,  # size = (B, L)
        labels: torch.Tensor,  # size = (B, m), +1 agrees, -1 disagrees, 0 missing
        counts: torch.Tensor | None = None,  # size = (m + 1,)
        **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The m losses -log σ(±Δ) and their aggregate at λ (Eq. 14 or 16)."""
        better, worse = self.implicit_rewards(
            better_input_ids, better_attention_mask, worse_input_ids, worse_attention_mask
        )
        margins = labelled_margins(better, worse, labels)  # size = (B, m)
        losses = preference_loss(margins)  # size = (B, m)
        labelled = labels.ne(0)
        return {
            "loss": self.panacea.loss(losses, labelled, counts),
            **self.reward_statistics(better.detach(), worse.detach()),
            **self.panacea.by_label("loss", losses.detach(), labelled),
            **self.panacea.by_label("accuracy", agreement(margins.detach()), labelled),
        }

    # -- evaluation -------------------------------------------------------------------

    def measure_front(self) -> Measurement:
        """Accuracies on the evaluation pairs; a few of their prompts are responded to."""
        pairs, args = self.part.evaluator.data, self.args
        policy = self.part.evaluator.measured_policy(self.model)
        prompts = prompts_of_pairs(pairs, args.eval_prompts or PROMPTS_OF_PAIRS)
        return measure(
            policy,
            self.part.evaluator.grid,
            prompts=prompts,
            pairs=pairs,
            margin_scale=self.scale_coeff,
        )


def rows_of_pairs(preference: torch.Tensor) -> torch.Tensor:
    """Which λ each row of a pass over B pairs has: all better responses, then all worse ones."""
    return torch.arange(len(preference), device=preference.device).repeat(2)
