"""Given weights, batches and responses: each side draws and shuffles in its own way."""

from __future__ import annotations

import zlib

import torch

STEPS = 10


class Log:
    """A logger that keeps what it is given, step by step."""

    def __init__(self):
        self.lines = []

    def log(self, metrics, step):
        self.lines.append(dict(metrics))

    def print(self, *_, **__):
        pass

    close = print


def column(log, name):
    return [line[name] for line in log.lines if name in line]


def given_weights(engine, seed, spread=1.0, *, move=False):
    """Weights that depend on their names and the seed alone; ``move`` adds to what is there."""
    with torch.no_grad():
        for name, weight in getattr(engine, "module", engine).named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            drawn = torch.randn(weight.shape, generator=generator)
            fan_in = weight.size(-1) if weight.dim() > 1 else 25  # a norm's weights stay near 1
            start = weight if move else float(weight.dim() == 1 and "norm" in name)
            weight.copy_(start + spread * drawn / fan_in**0.5)


def rollouts(steps=STEPS, rows=8):
    """Prompts, and the responses and masks of every rollout."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(steps):
        prompts = torch.randint(9, 50, (rows, 7), generator=generator)
        responses = torch.randint(9, 50, (rows, 10), generator=generator)
        lengths = torch.randint(1, 10, (rows, 1), generator=generator)
        place = torch.arange(10)
        responses[place.expand(rows, -1) == lengths] = 2  # the end token
        responses[place > lengths] = 0
        mask = torch.cat([torch.ones(rows, 7, dtype=torch.bool), place <= lengths], dim=1)
        prompt = {"input_ids": prompts, "attention_mask": torch.ones(rows, 7, dtype=torch.bool)}
        batches.append((prompt, torch.cat([prompts, responses], dim=1), mask))
    return batches


def follow(trainer, side, batches, micro=8):
    """Let a trainer roll out the given batches, ``micro`` rows at a time."""
    turn = (
        (sequence[i : i + micro], mask[i : i + micro])
        for _, sequence, mask in batches
        for i in range(0, len(sequence), micro)
    )
    trainer.prompt_only_dataloader = [prompt for prompt, _, _ in batches]
    if side == "port":
        trainer.generate = lambda prompts: next(turn)
    else:
        trainer.actor_model.module.generate = lambda **kwargs: next(turn)[0]


def ragged(generator, rows, shortest, length):
    """Token ids, size = (rows, length), that end at different places, and their mask."""
    ids = torch.randint(9, 50, (rows, length), generator=generator)
    ends = torch.randint(shortest, length + 1, (rows, 1), generator=generator)
    mask = torch.arange(length) < ends
    return ids.masked_fill(~mask, 0), mask


def pairs(steps=STEPS, rows=8):
    """Batches of two responses to one prompt, padded on the right."""
    generator = torch.Generator().manual_seed(2)
    batches = []
    for _ in range(steps):
        prompts = torch.randint(9, 50, (rows, 5), generator=generator)
        batch = {}
        for side in ("better", "worse"):
            ids, mask = ragged(generator, rows, 2, 8)
            batch[f"{side}_input_ids"] = torch.cat([prompts, ids], dim=1)
            batch[f"{side}_attention_mask"] = torch.cat([torch.ones_like(prompts).bool(), mask], 1)
        batches.append(batch)
    return batches


def texts(steps=STEPS, rows=8):
    """Batches of supervised text, the first four tokens without a label.

    Both halves of a batch have as many labels, so that the mean of their means, which Safe-RLHF
    takes where they share an update, is that over all labels, which the port takes.
    """
    generator = torch.Generator().manual_seed(3)
    batches = []
    for _ in range(steps):
        ids, mask = ragged(generator, rows, 6, 12)
        mask[rows // 2 :] = mask[: rows // 2].flip(0)
        ids[rows // 2 :] = (ids[: rows // 2].flip(0) + 1) * mask[rows // 2 :]
        labels = ids.masked_fill(~mask, -100)
        labels[:, :4] = -100
        batches.append({"input_ids": ids, "labels": labels, "attention_mask": mask})
    return batches
