"""The parts of a training step that hold memory, with the functions of the trainers.

They run alike on models with weights and on models that only pretend to have any. Sequences share
no beginning here, which depends on the data and holds no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.forward import log_probs
from safe_rlhf_panacea.forward.decoding import preallocated_cache
from safe_rlhf_panacea.forward.generation import invert


@dataclass(frozen=True)
class Tokens:
    """A padded batch; ``ids`` and ``mask`` are size = (B, L), ``counted`` is (B, L - 1)."""

    ids: torch.Tensor
    mask: torch.Tensor
    counted: torch.Tensor

    @classmethod
    def of_lengths(cls, lengths: list[int], device: str = "cpu", prompt_length: int = 1) -> Tokens:
        """Rows of so many tokens each, padded on the right; those of the prompt do not count."""
        ends = torch.tensor(lengths, device=device).unsqueeze(1)
        mask = torch.arange(max(lengths), device=device) < ends
        counted = mask[:, 1:].clone()
        counted[:, : prompt_length - 1] = False
        return cls(torch.zeros(mask.shape, dtype=torch.long, device=device), mask, counted)


def lengths_of(rows: int, max_length: int, mean_length: float) -> list[int]:
    """One row of the largest length, the others so that the mean is right: padding is not free."""
    if rows == 1:
        return [max_length]
    rest = (mean_length * rows - max_length) / (rows - 1)
    return [max_length] + [min(max_length, max(1, round(rest)))] * (rows - 1)


def reference_pass(policy: Any, adapter: PanaceaAdapter, tokens: Tokens) -> None:
    """The model with its adapter off, nothing kept."""
    with torch.no_grad(), adapter.disabled():
        log_probs(policy, tokens.ids, tokens.mask, tokens.counted)


def policy_step(policy: Any, tokens: Tokens) -> None:
    """Forward and backward pass of a policy."""
    log_probs(policy, tokens.ids, tokens.mask, tokens.counted).sum().backward()


def actor_critic_step(policy: Any, critic: Any, tokens: Tokens) -> None:
    """Panacea-PPO's, one after the other."""
    policy_step(policy, tokens)
    critic(tokens.ids, attention_mask=tokens.mask).scores.float().sum().backward()


@torch.no_grad()
def score(reward: Any, tokens: Tokens, **role: str) -> None:
    """A reward model's pass."""
    reward(tokens.ids, attention_mask=tokens.mask, **role)


@torch.no_grad()
def generate(policy: Any, rows: int, max_length: int) -> None:
    """The cache of a whole generation, and one forward pass that fills half of it."""
    cache = preallocated_cache(policy.config, max_length)
    tokens = Tokens.of_lengths([max(1, max_length // 2)] * rows, str(policy.device))
    logits = policy(
        input_ids=tokens.ids,
        attention_mask=tokens.mask.long(),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    invert(logits.float().softmax(dim=-1), torch.rand(rows, dtype=torch.float64).to(logits.device))
