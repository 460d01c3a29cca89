"""Critics that see λ and live on a frozen backbone that is there anyway."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.models.score_model import ScoreModel

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def shared_copy(module: AnyModule) -> AnyModule:
    """A copy of a module over the same parameters; adapters, mode and hooks are not shared."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def value_model(backbone: PreTrainedModel) -> ScoreModel:
    """A critic on a policy's backbone; its value head starts at zero, as ``RewardCritic``'s does.

    ``backbone`` is a ``shared_copy`` of the policy's, made before an adapter was put into it. The
    critic's own adapter is still to come.
    """
    config: Any = backbone.config
    config.score_dim, config.score_bias = 1, True
    config.do_normalize, config.normalizer_type, config.momentum = False, None, None
    critic = ScoreModel(backbone, "critic")
    nn.init.zeros_(critic.score_head.weight)
    return critic.eval()


class RewardCritic(nn.Module):
    """One backbone in two roles.

    As the critic it is the reward model's backbone with an SVD-LoRA of its own, conditioned on
    λ, and a value head; with that adapter off and the score head on top it is the reward model
    again, bit for bit. So the critic costs an adapter and a head, not another backbone.

    The value head starts at zero: the first advantages are the plain discounted rewards.
    """

    def __init__(self, reward_model: ScoreModel, adapter: PanaceaAdapter) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.adapter = adapter
        reference = reward_model.score_head.weight
        self.value_head = nn.Linear(
            reference.size(1), 1, device=reference.device, dtype=reference.dtype
        )
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @property
    def config(self) -> Any:
        return self.reward_model.config

    def train(self, mode: bool = True) -> RewardCritic:
        """Set the mode of the backbone alone."""
        super().train(mode)
        # Else the reward model would take the critic's scores into its normaliser.
        self.reward_model.training = False
        return self

    def forward(
        self,
        input_ids: torch.Tensor,  # size = (B, L)
        attention_mask: torch.Tensor,  # size = (B, L)
        role: str = "critic",
        use_cache: bool = False,
    ) -> Any:
        """The output of a score model, with ``scores``, size = (B, L, 1), and ``end_scores``.

        ``role`` is ``critic`` for values at every token, or ``reward`` for the reward model.
        """
        if role == "reward":
            with self.adapter.disabled():
                return self.reward_model(input_ids, attention_mask=attention_mask)
        output = self.reward_model(input_ids, attention_mask=attention_mask, use_cache=use_cache)
        output.scores = self.value_head(output.last_hidden_state)  # size = (B, L, 1)
        return output

    def gradient_checkpointing_enable(self, kwargs: dict[str, Any] | None = None) -> None:
        self.reward_model.gradient_checkpointing_enable(kwargs or {"use_reentrant": False})

    def gradient_checkpointing_disable(self) -> None:
        self.reward_model.gradient_checkpointing_disable()
