"""The data of reinforcement learning: rollouts, loaders, and the cut into micro-batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, TypedDict, TypeVar

import torch
from torch.utils.data import DataLoader

from safe_rlhf_panacea.base.supervised import build_loader, run_length
from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.data import (
    ChatTemplate,
    PromptOnlyDataset,
    ResumableSampler,
    SupervisedDataset,
    TokenizedDataset,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig

Batch = dict[str, Any]


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


def sampling_config(args: RewardedConfig, template: ChatTemplate, model: Any) -> SamplingConfig:
    """How the flags want a model's responses to be drawn."""
    return SamplingConfig(
        max_length=args.max_length,
        eos_token_id=template.stop_ids(model),
        pad_token_id=template.tokenizer.pad_token_id,
        temperature=args.temperature,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        num_return_sequences=args.num_return_sequences,
    )


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """Cut a batch into micro-batches of at most ``rows`` rows."""
    total = len(next(iter(batch.values())))
    return [{k: v[i : i + rows] for k, v in batch.items()} for i in range(0, total, rows)]


def prompts_of_micro_batch(args: RewardedConfig, whole_groups: bool) -> int:
    """How many prompts a micro-batch holds: all responses to each of them, or one."""
    rows = args.per_device_train_batch_size
    return rows // args.num_return_sequences if whole_groups else rows


def micro_batches(prompts: int, args: RewardedConfig, whole_groups: bool) -> int:
    """How many micro-batches the rollout of so many prompts gives."""
    cuts = math.ceil(prompts / prompts_of_micro_batch(args, whole_groups))
    return cuts if whole_groups else cuts * args.num_return_sequences


def steps_per_epoch(prompts: int, args: RewardedConfig, whole_groups: bool = False) -> int:
    """Training steps in one pass over a process's prompts, with the last rollout, which is short.

    Of that, GRPO's whole groups take what fills whole updates.
    """
    rollout = prompts_of_rollout(args, whole_groups)
    whole, rest = divmod(prompts, rollout)
    if whole_groups:
        rest = min(rest, prompts_of_whole_updates(rest, args))
    full, short = (micro_batches(count, args, whole_groups) for count in (rollout, rest))
    return args.update_iters * (whole * full + short)


def _filling_updates(args: RewardedConfig) -> int:
    """The least number of micro-batches whose training steps fill whole updates."""
    accumulated = args.gradient_accumulation_steps
    return accumulated // math.gcd(accumulated, args.update_iters)


def prompts_of_whole_updates(prompts: int, args: RewardedConfig) -> int:
    """How many of some prompts GRPO rolls out, so that updates are of one rollout.

    At least all of them where their training steps fill whole updates.
    """
    least = _filling_updates(args)
    whole = micro_batches(prompts, args, whole_groups=True) // least * least
    return whole * prompts_of_micro_batch(args, whole_groups=True)


def prompts_of_rollout(args: RewardedConfig, whole_groups: bool = False) -> int:
    """Prompts that are rolled out before the updates on them.

    A prompt batch; for GRPO, which compares the responses of an update, as many of them as fill
    whole updates.
    """
    prompts = args.per_device_prompt_batch_size
    if not whole_groups:
        return prompts
    least = _filling_updates(args)
    return prompts * least // math.gcd(micro_batches(prompts, args, whole_groups), least)


def rows_of_rollout(args: RewardedConfig, whole_groups: bool = False) -> int:
    """Sequences in a whole rollout.

    Raises:
        UserError: those of a prompt batch make no whole number of training batches.
    """
    rows = args.per_device_prompt_batch_size * args.num_return_sequences
    if rows % args.per_device_train_batch_size:
        raise UserError(
            f"--per_device_prompt_batch_size times --num_return_sequences is {rows}, which is "
            f"no multiple of --per_device_train_batch_size {args.per_device_train_batch_size}"
        )
    return prompts_of_rollout(args, whole_groups) * args.num_return_sequences


def lengths(prompts: int, args: RewardedConfig, whole_groups: bool = False) -> tuple[int, int]:
    """Training steps in an epoch and in the run.

    Raises:
        UserError: the run would end before its first update.
    """
    per_epoch = steps_per_epoch(prompts, args, whole_groups)
    total = run_length(args, per_epoch) if per_epoch else 0
    if total < args.gradient_accumulation_steps:
        raise UserError(
            f"the run has {total} training steps, fewer than --gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps}: it would end before its first update; give more "
            f"prompts than {prompts}, or fewer --gradient_accumulation_steps"
        )
    return per_epoch, total


def prompt_loaders(
    args: RewardedConfig, template: ChatTemplate, whole_groups: bool = False
) -> tuple[DataLoader[Any], ResumableSampler, DataLoader[Any] | None]:
    """A loader of prompts with its sampler, and one of evaluation prompts if asked for."""
    options: dict[str, Any] = {"tokenizer": template.tokenizer, "seed": args.seed}
    options["template"] = template
    prompts: TokenizedDataset = PromptOnlyDataset(args.train_datasets, **options)
    eval_prompts: TokenizedDataset | None = None
    if args.need_eval and args.eval_datasets is not None:
        eval_prompts = PromptOnlyDataset(args.eval_datasets, **options)
    elif args.need_eval and args.eval_split_ratio is not None:
        prompts, eval_prompts = prompts.split_train_test(args.eval_split_ratio)
    loader, sampler = build_loader(prompts, prompts_of_rollout(args, whole_groups), args.seed)
    eval_loader = None
    if eval_prompts is not None:
        eval_loader, _ = build_loader(
            eval_prompts, args.per_device_eval_batch_size, args.seed, shuffle=False
        )
    return loader, sampler, eval_loader


def text_loader(
    args: RewardedConfig, template: ChatTemplate, rows: int
) -> tuple[DataLoader[Any], ResumableSampler]:
    """A loader of supervised text for the PTX loss, and its sampler."""
    dataset = SupervisedDataset(
        args.ptx_datasets or (), tokenizer=template.tokenizer, seed=args.seed, template=template
    )
    return build_loader(dataset, rows, args.seed)


def endless(loader: DataLoader[Any], sampler: ResumableSampler) -> Iterator[Batch]:
    """Epoch after epoch, from the sampler's present one on."""
    for epoch in itertools.count(sampler.epoch):
        sampler.set_epoch(epoch)
        yield from loader
