"""m rewards as one, in the order of λ."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safe_rlhf_panacea.rewards.scorers import Scorer
from safe_rlhf_panacea.rewards.spec import RewardSpec


class RewardEnsemble:
    """Scores a batch under every objective.

    Args:
        specs: one per objective.
        scorers: one per objective, see ``scorers.py``.
    """

    def __init__(self, specs: Sequence[RewardSpec], scorers: Sequence[Scorer]) -> None:
        """Hold on to the scorers."""
        if len(specs) != len(scorers):
            raise ValueError(f"{len(specs)} specifications for {len(scorers)} scorers")
        self.specs = list(specs)
        self.scorers = list(scorers)

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives, in the order of λ."""
        return tuple(spec.name for spec in self.specs)

    @torch.no_grad()
    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        """The m rewards of each sequence, size = (B, m), float32.

        Args:
            input_ids: the policy's tokens, size = (B, L).
            attention_mask: size = (B, L).
            prompt_length: width of the padded prompts, after which the responses begin.
        """
        columns = [
            spec.sign
            * spec.scale
            * (scorer(input_ids, attention_mask, prompt_length).float() - spec.shift)
            for spec, scorer in zip(self.specs, self.scorers, strict=True)
        ]
        return torch.stack(columns, dim=-1)

    def raw(self, rewards: torch.Tensor) -> torch.Tensor:
        """What the models and functions themselves said, before sign, scale and shift.

        Args:
            rewards: of this ensemble, size = (..., m).
        """
        factors = rewards.new_tensor([spec.sign * spec.scale for spec in self.specs])
        return rewards / factors + rewards.new_tensor([spec.shift for spec in self.specs])
