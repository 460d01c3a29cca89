"""The data of reinforcement learning: its loaders, and the cut into micro-batches."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from safe_rlhf_panacea.base.datasets import (
    PromptOnlyDataset,
    ResumableSampler,
    SupervisedDataset,
)
from safe_rlhf_panacea.base.trainers.supervised import build_loader

Batch = dict[str, Any]


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """Cut a batch into micro-batches of at most ``rows`` rows."""
    total = next(iter(batch.values())).size(0)
    return [{k: v[i : i + rows] for k, v in batch.items()} for i in range(0, total, rows)]


def prompt_loaders(
    args: argparse.Namespace, tokenizer: Any
) -> tuple[DataLoader, ResumableSampler, DataLoader | None]:
    """A loader of prompts with its sampler, and one of evaluation prompts if asked for."""
    prompts = PromptOnlyDataset(args.train_datasets, tokenizer=tokenizer, seed=args.seed)
    eval_prompts = None
    if args.need_eval and args.eval_datasets is None:
        prompts, eval_prompts = prompts.split_train_test(args.eval_split_ratio)
    elif args.need_eval:
        eval_prompts = PromptOnlyDataset(args.eval_datasets, tokenizer=tokenizer, seed=args.seed)
    loader, sampler = build_loader(prompts, args.per_device_prompt_batch_size, args.seed)
    eval_loader = None
    if eval_prompts is not None:
        eval_loader, _ = build_loader(
            eval_prompts, args.per_device_eval_batch_size, args.seed, shuffle=False
        )
    return loader, sampler, eval_loader


def text_loader(
    args: argparse.Namespace, tokenizer: Any, rows: int
) -> tuple[DataLoader, ResumableSampler]:
    """A loader of supervised text for the PTX loss, and its sampler."""
    dataset = SupervisedDataset(args.ptx_datasets, tokenizer=tokenizer, seed=args.seed)
    return build_loader(dataset, rows, args.seed)


def endless(loader: DataLoader, sampler: ResumableSampler) -> Iterator[Batch]:
    """Epoch after epoch, from the sampler's present one on."""
    for epoch in itertools.count(sampler.epoch):
        sampler.set_epoch(epoch)
        yield from loader
