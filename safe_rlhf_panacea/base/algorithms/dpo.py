"""Direct preference optimisation (Eq. 2) with a reference model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.distributed import own_device
from safe_rlhf_panacea.base.engine import init_eval_engine
from safe_rlhf_panacea.base.functional import diverging_mask, mean_over_update
from safe_rlhf_panacea.base.losses import preference_loss, summed_log_ratios
from safe_rlhf_panacea.base.trainers.supervised import SupervisedTrainer
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.forward import across, log_probs


def reward_statistics(better: torch.Tensor, worse: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is logged of the implicit rewards, size = (B,) each."""
    return {
        "reward": better + worse,
        "better_sample_reward": better,
        "worse_sample_reward": worse,
        "reward_accuracy": (better > worse).float(),
        "reward_margin": better - worse,
    }


class DPOTrainer(SupervisedTrainer):
    """DPO on pairs of responses to the same prompt.

    Hooks for subclasses: ``init_reference`` and ``reference`` say where the reference comes
    from, ``loss`` what is made of the implicit rewards.
    """

    TRAINING_TYPE: ClassVar[str] = "dpo"
    DATASET_TYPE: ClassVar[Any] = PreferenceDataset
    reward_statistics = staticmethod(reward_statistics)

    reference_model: Any

    def __init__(
        self, args: DPOConfig, ds_train_config: dict[str, Any], ds_eval_config: dict[str, Any]
    ) -> None:
        """Run the hooks."""
        self.scale_coeff = args.scale_coeff
        self.ds_eval_config = ds_eval_config
        super().__init__(args, ds_train_config)

    def init_models(self) -> None:
        """Load the policy, and the reference it is held against."""
        super().init_models()
        self.init_reference()

    def init_reference(self) -> None:
        """Load a second, frozen copy of the policy."""
        self.reference_model, _ = self.load_model()

    def init_engines(self) -> None:
        """Make the policy's engine and place the reference."""
        super().init_engines()
        if self.reference_model is not None:
            self.reference_model.to(own_device())
            self.reference_model = init_eval_engine(self.reference_model, self.ds_eval_config)

    def reference(self) -> AbstractContextManager[Any]:
        """A context in which the model that it gives is the reference."""
        return nullcontext(self.reference_model)

    def implicit_rewards(
        self,
        better_input_ids: torch.Tensor,  # size = (B, L)
        better_attention_mask: torch.Tensor,  # size = (B, L)
        worse_input_ids: torch.Tensor,  # size = (B, L)
        worse_attention_mask: torch.Tensor,  # size = (B, L)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """scale_coeff · log π(y|x)/π_ref(y|x) of both responses, from their first difference on.

        Returns:
            Rewards of the better and of the worse response, size = (B,) each.
        """
        input_ids = torch.cat([better_input_ids, worse_input_ids])  # size = (2B, L)
        attention_mask = torch.cat([better_attention_mask, worse_attention_mask])
        mask = torch.cat(
            diverging_mask(
                better_input_ids,
                better_attention_mask,
                worse_input_ids,
                worse_attention_mask,
                upstream_slice=getattr(self.args, "upstream_dpo_slice", False),
            )
        )
        inputs = input_ids, attention_mask, mask, across(len(input_ids), 2)
        # The reference goes first: the backward pass must find the policy as it was left.
        with torch.no_grad(), self.reference() as model:
            reference = log_probs(model, *inputs)  # size = (2B, L - 1)
        policy = log_probs(self.model, *inputs)
        rewards = self.scale_coeff * summed_log_ratios(policy, reference, mask)  # size = (2B,)
        better, worse = rewards.chunk(2)
        return better, worse

    def loss(
        self,
        better_input_ids: torch.Tensor,  # size = (B, L)
        better_attention_mask: torch.Tensor,  # size = (B, L)
        worse_input_ids: torch.Tensor,  # size = (B, L)
        worse_attention_mask: torch.Tensor,  # size = (B, L)
        counts: torch.Tensor | None = None,  # size = (), rows
        **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """-log σ(Δ), Δ being the margin between the implicit rewards (Eq. 2)."""
        better, worse = self.implicit_rewards(
            better_input_ids, better_attention_mask, worse_input_ids, worse_attention_mask
        )
        return {
            "loss": mean_over_update(preference_loss(better - worse), counts),
            **self.reward_statistics(better.detach(), worse.detach()),
        }
