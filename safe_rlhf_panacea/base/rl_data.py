"""The data of reinforcement learning: rollouts, and how prompts are cut into micro-batches.

``whole_groups`` says whether a micro-batch holds all responses to its prompts (GRPO) or one to
each (PPO).
"""

from __future__ import annotations

import math
from typing import TypedDict

from torch import Tensor

from safe_rlhf_panacea.base.engine import Batch
from safe_rlhf_panacea.configs.algorithms import RewardedConfig


class Rollout(TypedDict, total=False):
    """A micro-batch of prompts, responses and scores: a dictionary, as in Safe-RLHF.

    B sequences of L tokens begin with a prompt of width S, padded on the left; number t of L - 1
    belongs to token t + 1.
    """

    prompt: Tensor  # size = (B, S)
    input_ids: Tensor  # prompts and responses, size = (B, L)
    attention_mask: Tensor  # True on tokens, size = (B, L)
    reward: Tensor  # of each response, size = (B,)
    ref_log_probs: Tensor  # of the reference, size = (B, L - 1)
    # Of the policy that drew the responses, size = (B, L - 1). None on policy: the forward pass of
    # the training step gives them.
    log_probs: Tensor
    reward_values: Tensor  # the critic's, size = (B, L - 1); none without a critic
    # What ``of_update`` adds:
    count: Tensor  # responses with a token in an average micro-batch of the update, size = ()
    moments: tuple[Tensor, Tensor]  # mean and variance of advantages that are whitened
    # Panacea's:
    preference: Tensor  # λ of each row, size = (B, m)
    rewards: Tensor  # (B, m); NaN where an objective does not count for a response
    sampling_log_probs: Tensor  # of servers that drew the responses, size = (B, L - 1)
    # What GRPO's ``of_update`` adds:
    advantages: Tensor  # size = (B,)
    weights: Tensor  # how much each objective counts, size = (B, m)
    without_spread: Tensor  # whether a row's group teaches nothing, size = (B,)
    tokens: Tensor  # of responses, in an average micro-batch of the update; size = ()


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """Cut a batch into micro-batches of at most ``rows`` rows."""
    total = len(next(iter(batch.values())))
    return [{k: v[i : i + rows] for k, v in batch.items()} for i in range(0, total, rows)]


def prompts_of_micro_batch(args: RewardedConfig, whole_groups: bool) -> int:
    """How many prompts a micro-batch holds."""
    rows = args.per_device_train_batch_size
    return rows // args.num_return_sequences if whole_groups else rows


def micro_batches(prompts: int, args: RewardedConfig, whole_groups: bool) -> int:
    """How many micro-batches the rollout of so many prompts gives."""
    cuts = math.ceil(prompts / prompts_of_micro_batch(args, whole_groups))
    return cuts if whole_groups else cuts * args.num_return_sequences


def _filling_updates(args: RewardedConfig) -> int:
    """The least number of micro-batches whose training steps fill whole updates."""
    return args.gradient_accumulation_steps // math.gcd(
        args.gradient_accumulation_steps, args.update_iters
    )


def prompts_of_whole_updates(prompts: int, args: RewardedConfig) -> int:
    """How many of a batch of prompts GRPO rolls out, so that no update spans two rollouts.

    It is all of them, or more, where their training steps fill whole updates.
    """
    least = _filling_updates(args)
    whole = micro_batches(prompts, args, whole_groups=True) // least * least
    return whole * prompts_of_micro_batch(args, whole_groups=True)


def prompts_of_rollout(args: RewardedConfig, whole_groups: bool = False) -> int:
    """Prompts before the updates on them: a batch, for GRPO as many as fill whole updates."""
    prompts = args.per_device_prompt_batch_size
    if not whole_groups:
        return prompts
    least = _filling_updates(args)
    return prompts * least // math.gcd(micro_batches(prompts, args, whole_groups), least)


def steps_per_epoch(prompts: int, args: RewardedConfig, whole_groups: bool = False) -> int:
    """Training steps in one pass over a process's prompts.

    The last rollout may be short; of that GRPO takes what fills whole updates.
    """
    size = prompts_of_rollout(args, whole_groups)
    whole, rest = divmod(prompts, size)
    if whole_groups:
        rest = min(rest, prompts_of_whole_updates(rest, args))
    full = micro_batches(size, args, whole_groups)
    return args.update_iters * (whole * full + micro_batches(rest, args, whole_groups))
