"""Panacea-DPO (Algorithm 1 with Eq. 14 and 16): draw λ, set it, aggregate, delegate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from safe_rlhf_panacea.adapter import PanaceaAdapter, inject_adapter
from safe_rlhf_panacea.aggregation import aggregate_losses
from safe_rlhf_panacea.algorithms.arguments import adapter_config
from safe_rlhf_panacea.algorithms.conditioning import PreferenceSource, as_reference, set_preference
from safe_rlhf_panacea.algorithms.saving import save_adapter, snapshot_folder
from safe_rlhf_panacea.algorithms.watching import Watched
from safe_rlhf_panacea.base import (
    HookedDPOTrainer,
    LabelledPreferenceDataset,
    TrainingState,
    unwrap,
)
from safe_rlhf_panacea.evaluation.accuracy_front import agreement
from safe_rlhf_panacea.evaluation.measure import PROMPTS_OF_PAIRS, measure, prompts_of_pairs
from safe_rlhf_panacea.evaluation.measurement import Measurement


class PanaceaDPOTrainer(Watched, HookedDPOTrainer):
    """DPO for m objectives that label the same pairs.

    One forward pass over a pair gives the margin Δ between its implicit rewards; objective
    ``i`` wants it positive or negative according to its label, so m objectives cost what one
    costs. The reference is the policy with its adapter off.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-dpo"

    adapter: PanaceaAdapter

    def init_reference(self) -> None:
        """Inject the adapter; switched off, the policy is its own reference."""
        self.objectives = tuple(self.args.objectives)
        config = adapter_config(self.args, self.objectives, self.args.model_name_or_path)
        self.adapter = inject_adapter(self.model, config)
        self.reference_model = None
        self.preferences = PreferenceSource(self.args, self.objectives)
        self.preference = torch.full((len(self.objectives),), 1 / len(self.objectives))

    def make_dataset(self, specs: Any) -> LabelledPreferenceDataset:
        """Pairs labelled by at least one of the objectives."""
        return LabelledPreferenceDataset(
            specs, tokenizer=self.tokenizer, objectives=self.objectives, seed=self.args.seed
        )

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The policy with its adapter off."""
        with as_reference(self.adapter, unwrap(self.model)):
            yield self.model

    def train_step(self, **batch: torch.Tensor) -> dict[str, Any]:
        """Draw λ for this batch and take the step."""
        self.preference = self.preferences.draw(batch["labels"].size(0))
        info = super().train_step(**batch)
        means = self.preference.reshape(-1, len(self.objectives)).mean(dim=0).tolist()
        drawn = zip(self.objectives, means, strict=True)
        return {**info, **{f"train/preference_{name}": mean for name, mean in drawn}}

    def loss(  # type: ignore[override]
        self,
        better_input_ids: torch.Tensor,  # size = (B, L)
        better_attention_mask: torch.Tensor,  # size = (B, L)
        worse_input_ids: torch.Tensor,  # size = (B, L)
        worse_attention_mask: torch.Tensor,  # size = (B, L)
        labels: torch.Tensor,  # size = (B, m), +1 agrees, -1 disagrees, 0 missing
        **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The m losses -log σ(±Δ) and their aggregate at λ (Eq. 14 or 16)."""
        set_preference(self.adapter, self.preference, copies=2, tiled=True)
        better, worse = self.implicit_rewards(
            better_input_ids, better_attention_mask, worse_input_ids, worse_attention_mask
        )
        margins = labels * (better - worse).unsqueeze(-1)  # size = (B, m)
        losses = -F.logsigmoid(margins)  # size = (B, m)
        labelled = labels.ne(0)
        loss = aggregate_losses(
            losses, labelled, self.preference.to(losses.device), self.args.aggregation
        )
        if self.args.orthogonality_coeff > 0:
            loss = loss + self.args.orthogonality_coeff * self.adapter.orthogonality()
        return {
            "loss": loss,
            **self.reward_statistics(better.detach(), worse.detach()),
            **self._per_objective(losses.detach(), margins.detach(), labelled),
        }

    def _per_objective(
        self, losses: torch.Tensor, margins: torch.Tensor, labelled: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Each objective's loss and implicit-reward accuracy over its labelled pairs."""
        counts = labelled.sum(dim=0).clamp(min=1)  # size = (m,)
        mean_losses = (losses * labelled).sum(dim=0) / counts
        accuracies = (agreement(margins) * labelled).sum(dim=0) / counts
        result = {}
        for index, name in enumerate(self.objectives):
            result[f"loss_{name}"] = mean_losses[index]
            result[f"accuracy_{name}"] = accuracies[index]
        return result

    def eval(self) -> dict[str, float]:
        """Evaluate at the centre of the simplex, then the front."""
        if self.preferences.fixed is None:
            self.preference = torch.full((len(self.objectives),), 1 / len(self.objectives))
        return super().eval()

    def measure_front(self) -> Measurement:
        """Accuracies on the evaluation pairs; a few of their prompts are responded to."""
        pairs, args = self.eval_dataloader.dataset, self.args
        policy = self.measured_policy(self.model)
        prompts = prompts_of_pairs(policy, pairs, args.eval_prompts or PROMPTS_OF_PAIRS)
        return measure(
            policy,
            self.evaluation_grid,
            prompts=prompts,
            pairs=pairs,
            margin_scale=self.scale_coeff,
        )

    def training_state(self) -> TrainingState:
        """With the place in the stream of preference vectors."""
        state = super().training_state()
        state.preference_sampler = self.preferences.state_dict()
        return state

    def restore(self, state: TrainingState) -> None:
        """With the place in the stream of preference vectors."""
        super().restore(state)
        if state.preference_sampler is not None:
            self.preferences.load_state_dict(state.preference_sampler)

    def save_checkpoint(self) -> None:
        """With the adapter as it is now, ready to be loaded and evaluated."""
        super().save_checkpoint()
        folder = snapshot_folder(self.args.output_dir, self.global_step)
        save_adapter(self.adapter, self.tokenizer, folder)

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write the adapter and the tokenizer; the base model stays where it is."""
        del model, ds_config
        save_adapter(self.adapter, self.tokenizer, self.args.output_dir)
        self.logger.print(f'Saved the adapter to "{self.args.output_dir}".')
