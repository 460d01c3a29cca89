"""What a rollout hands to its updates."""

from __future__ import annotations

from typing import TypedDict, TypeVar

import torch


class OldNumbers(TypedDict, total=False):
    """Policy and critic as they were when the responses were drawn."""

    log_probs: torch.Tensor
    reward_values: torch.Tensor


class OfUpdate(TypedDict, total=False):
    """What the micro-batches of an update know of each other."""

    count: torch.Tensor
    moments: tuple[torch.Tensor, torch.Tensor]


class Scores(TypedDict):
    """What is said of each response; a subclass may say more.

    Attributes:
        reward: size = (B,).
    """

    reward: torch.Tensor


class Rollout(OldNumbers, OfUpdate, Scores):
    """A micro-batch of prompts, responses and scores, complete when it is made.

    A dictionary, as Safe-RLHF's trainers hand it on. B sequences of L tokens each begin with a
    prompt of width S, padded on the left; number t of L - 1 belongs to token t + 1.

    Attributes:
        prompt: size = (B, S).
        input_ids: prompts and responses, size = (B, L).
        attention_mask: True on tokens, size = (B, L).
        ref_log_probs: of the reference, size = (B, L - 1).
        log_probs: of the policy that drew the responses, size = (B, L - 1). On-policy there are
            none: the one training step comes before the next update, and its own forward pass
            gives these numbers.
        reward_values: the critic's, size = (B, L - 1); none without a critic.
        count: responses with a token in an average micro-batch of the update, size = ().
        moments: mean and variance of the update's advantages, where they are whitened.
    """

    prompt: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    ref_log_probs: torch.Tensor


AnyRollout = TypeVar("AnyRollout", bound=Rollout)
