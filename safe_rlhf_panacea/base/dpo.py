"""Direct preference optimisation of one objective (Eq. 2), with a reference model."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.engine import init_eval_engine
from safe_rlhf_panacea.base.losses import (
    Pairs,
    mean_over_update,
    preference_loss,
    reward_statistics,
    summed_log_ratios,
)
from safe_rlhf_panacea.base.setup import load_model
from safe_rlhf_panacea.base.supervised import SupervisedTrainer
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.forward import log_probs


class DPOTrainer(SupervisedTrainer):
    """DPO on pairs of responses to the same prompt.

    A subclass may bring another reference (``init_reference``) with a ``loss`` of its own.
    """

    TRAINING_TYPE: ClassVar[str] = "dpo"
    DATASET_TYPE: ClassVar[Any] = PreferenceDataset

    reference_model: Any

    def __init__(self, args: DPOConfig, *ds_configs: dict[str, Any]) -> None:
        self.scale_coeff = args.scale_coeff
        super().__init__(args, *ds_configs)

    def init_models(self) -> None:
        super().init_models()
        self.init_reference()

    def init_reference(self) -> None:
        """Load a second, frozen copy of the policy."""
        self.reference_model, _ = load_model(self.args, self.args.model_name_or_path)

    def init_engines(self) -> None:
        super().init_engines()
        if self.reference_model is not None:
            self.reference_model = init_eval_engine(self.reference_model, self.ds_eval_config)

    def loss(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """-log σ(Δ), Δ being the margin between the implicit rewards (Eq. 2).

        ``batch`` has collated pairs and ``counts``, the rows of an average micro-batch, size = ().
        """
        pairs = Pairs.of(batch, upstream_slice=self.args.upstream_dpo_slice)
        with torch.no_grad():
            ref_log_probs = log_probs(self.reference_model, *pairs)
        policy = log_probs(self.model, *pairs)
        ratios = summed_log_ratios(policy, ref_log_probs, pairs.counted)  # size = (2B,)
        better, worse = (self.scale_coeff * ratios).chunk(2)
        return {
            "loss": mean_over_update(preference_loss(better - worse), batch.get("counts")),
            **reward_statistics(better, worse),
        }
