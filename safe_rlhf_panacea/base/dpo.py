"""Direct preference optimisation (Eq. 2) with a reference model."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.base.engine import init_eval_engine
from safe_rlhf_panacea.base.losses import (
    diverging_mask,
    mean_over_update,
    preference_loss,
    summed_log_ratios,
)
from safe_rlhf_panacea.base.setup import load_model
from safe_rlhf_panacea.base.supervised import SupervisedTrainer
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.forward import across, log_probs

PAIR = ("better_input_ids", "better_attention_mask", "worse_input_ids", "worse_attention_mask")


@dataclass(frozen=True)
class Pairs:
    """B pairs of responses: all better ones, then all worse ones, padded on the right.

    Attributes:
        input_ids: size = (2B, L).
        attention_mask: size = (2B, L).
        counted: from the first token in which a pair differs to the end of each, bool,
            size = (2B, L - 1): all before cancels in a margin.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    counted: torch.Tensor

    @classmethod
    def of(cls, batch: Mapping[str, torch.Tensor], *, upstream_slice: bool = False) -> Pairs:
        """The pairs of a collated batch, size = (B, L) each; see ``diverging_mask``."""
        better, better_mask, worse, worse_mask = (batch[key] for key in PAIR)
        masks = diverging_mask(
            better, better_mask, worse, worse_mask, upstream_slice=upstream_slice
        )
        ids, mask = torch.cat([better, worse]), torch.cat([better_mask, worse_mask])
        return cls(ids, mask, torch.cat(masks))

    def log_probs(self, model: Any) -> torch.Tensor:
        """Log-probabilities of the counted tokens, 0 elsewhere, size = (2B, L - 1)."""
        groups = across(len(self.input_ids), 2)  # what a pair begins with is read once
        return log_probs(model, self.input_ids, self.attention_mask, self.counted, groups)

    def log_ratios(
        self, policy: Any, reference: AbstractContextManager[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log π(y|x)/π_ref(y|x) of the better and of the worse responses, size = (B,) each.

        ``policy`` is a model or its engine; the context ``reference`` gives the reference model.
        """
        # The reference goes first: the backward pass must find the policy as it was left.
        with torch.no_grad(), reference as model:
            ref_log_probs = self.log_probs(model)
        ratios = summed_log_ratios(self.log_probs(policy), ref_log_probs, self.counted)
        better, worse = ratios.chunk(2)
        return better, worse


def reward_statistics(better: torch.Tensor, worse: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is logged of the implicit rewards, size = (B,) each."""
    better, worse = better.detach(), worse.detach()
    return {
        "reward": better + worse,
        "better_sample_reward": better,
        "worse_sample_reward": worse,
        "reward_accuracy": (better > worse).float(),
        "reward_margin": better - worse,
    }


class ImplicitRewards(abc.ABC):
    """What trainers of DPO have in common, the port's and those on Safe-RLHF."""

    args: Any
    model: Any
    scale_coeff: float

    @abc.abstractmethod
    def reference(self) -> AbstractContextManager[Any]:
        """A context that gives the reference model."""

    def implicit_rewards(
        self, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """scale_coeff · log π/π_ref of the better and of the worse responses, size = (B,) each."""
        pairs = Pairs.of(batch, upstream_slice=getattr(self.args, "upstream_dpo_slice", False))
        better, worse = pairs.log_ratios(self.model, self.reference())
        return self.scale_coeff * better, self.scale_coeff * worse


class DPOTrainer(ImplicitRewards, SupervisedTrainer):
    """DPO on pairs of responses to the same prompt.

    Hooks for subclasses: ``init_reference`` and ``reference`` say where the reference comes
    from, ``loss`` what is made of the implicit rewards.
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

    def reference(self) -> AbstractContextManager[Any]:
        """The copy that ``init_reference`` loaded."""
        return nullcontext(self.reference_model)

    def loss(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """-log σ(Δ), Δ being the margin between the implicit rewards (Eq. 2).

        ``batch`` has collated pairs and ``counts``, the rows of an average micro-batch, size = ().
        """
        better, worse = self.implicit_rewards(batch)
        return {
            "loss": mean_over_update(preference_loss(better - worse), batch.get("counts")),
            **reward_statistics(better, worse),
        }
