"""Pairs of random tokens: all of one length, or as long as hh-rlhf's are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Tokens by row: prompt, what both sequences share, better, worse.
HH_LENGTHS = Path(__file__).with_name("hh_lengths.json")
FIRST_TOKEN = 4  # below it are the special ones
Lengths = list[int]


def lengths(kind: str, longest: int) -> list[Lengths]:
    """What the rows of batches are drawn from, four numbers each.

    Args:
        kind: ``real``, hh-rlhf's with what is longer cut off, or ``equal``: a quarter prompt.
        longest: tokens of a sequence.
    """
    if kind == "equal":
        return [[longest // 4, longest // 4, longest, longest]]
    rows = json.loads(HH_LENGTHS.read_text(encoding="utf-8"))
    cut = [[min(tokens, longest) for tokens in row] for row in rows]
    # Pairs that are the same after the cut, or have no response, are left out as in training.
    return [row for row in cut if row[1] < max(row[2:]) and row[0] < min(row[2:])]


def _pair(row: Lengths, generator: torch.Generator, vocab: int) -> tuple[torch.Tensor, ...]:
    """Better and worse sequence of random tokens that part where the row says."""
    _, shared, better, worse = row
    size = (max(better, worse),)
    ids = torch.randint(FIRST_TOKEN, vocab, size, generator=generator)
    other = torch.randint(FIRST_TOKEN, vocab, size, generator=generator)
    other[:shared] = ids[:shared]
    if shared < min(better, worse):
        other[shared] = FIRST_TOKEN + (ids[shared] + 1 - FIRST_TOKEN) % (vocab - FIRST_TOKEN)
    return ids[:better], other[:worse]


def _padded(rows: list[torch.Tensor], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def pair_batches(
    kind: str, rows: int, longest: int, vocab: int, objectives: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Batches without end, the same for everyone who is measured; ``PreferenceBatch``'s keys."""
    choices, chance = lengths(kind, longest), random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn = chance.choices(choices, k=rows)
        pairs = [_pair(row, generator, vocab) for row in drawn]
        width = max(len(ids) for pair in pairs for ids in pair)
        better, better_mask = _padded([pair[0] for pair in pairs], width)
        worse, worse_mask = _padded([pair[1] for pair in pairs], width)
        signs = torch.randint(0, 2, (rows, objectives), generator=generator) * 2 - 1
        yield {
            "better_input_ids": better,
            "better_attention_mask": better_mask,
            "worse_input_ids": worse,
            "worse_attention_mask": worse_mask,
            "labels": signs.float(),
            "prompt_length": torch.tensor([row[0] for row in drawn]),
        }
