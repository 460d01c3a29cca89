"""A policy, two reward models and data so small that twenty training steps take a second.

Nothing of it comes from torch's random numbers: every tensor is drawn from NumPy's ``RandomState``,
whose stream is frozen for good (NEP 19), seeded by the tensor's own name, so that neither another
torch nor another order of the parameters changes a weight.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.models import AutoModelForScore
from tests.tiny import tiny_tokenizer

OBJECTIVES = ("helpful", "harmless")
# Prompts of the template and six letters, and room for answers of about 24 letters.
MAX_LENGTH = 44
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,:"
ROWS = 64


@dataclass(frozen=True)
class TinyWorld:
    """Where everything lies."""

    base: Path  # the policy to start from, with its tokenizer
    rewards: Mapping[str, Path]  # objective to reward model
    pairs: Path  # answers of several lengths, every pair labelled by both objectives
    gaps: Path  # pairs of which some lack a label
    prompts: Path  # of several lengths, so that batches are padded
    even_prompts: Path  # of one length: no batch is padded, whoever is in it


@torch.no_grad()
def fill(parameters: Iterable[tuple[str, torch.Tensor]], seed: int, std: float = 0.0) -> None:
    """Overwrite tensors, but for those of one dimension, as seed, name and shape alone say.

    Their standard deviation is ``std``; 0 for that which keeps activations at their size,
    1 / √in_features, with logits of twice that.
    """
    for name, tensor in parameters:
        if tensor.dim() < 2:
            continue
        stream = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
        scale = std or (2.0 if "lm_head" in name else 1.0) / tensor.size(1) ** 0.5
        drawn = scale * stream.standard_normal(tuple(tensor.shape))
        tensor.copy_(torch.from_numpy(drawn))


def _pairs(stream: random.Random, *, gaps: bool) -> list[dict[str, Any]]:
    """Helpful wants the longer answer; harmless agrees with it on half of the pairs."""
    rows = []
    for _ in range(ROWS):
        answers = ["".join(stream.choices(CHARACTERS, k=k)) for k in (6, stream.randint(9, 20))]
        first = stream.randint(0, 1)
        row: dict[str, Any] = {"prompt": "".join(stream.choices("abcdefg", k=5))}
        row |= {"response_0": answers[first], "response_1": answers[1 - first]}
        row |= {"better_helpful": 1 - first, "better_harmless": stream.randint(0, 1)}
        if gaps and stream.random() < 0.4:
            row[f"better_{stream.choice(OBJECTIVES)}"] = None
        rows.append(row)
    return rows


def _prompts(stream: random.Random, shortest: int, longest: int) -> list[dict[str, str]]:
    lengths = [stream.randint(shortest, longest) for _ in range(ROWS)]
    return [{"prompt": "".join(stream.choices("abcdefghijklm", k=k))} for k in lengths]


def build_tiny_world(folder: Path) -> TinyWorld:
    """Write everything below ``folder``."""
    tokenizer = tiny_tokenizer(characters=CHARACTERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        models = {"base": LlamaForCausalLM(config)}
        models |= {name: AutoModelForScore.from_config(config) for name in OBJECTIVES}
    for seed, (name, model) in enumerate(models.items()):
        fill(model.named_parameters(), seed)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    made = {
        "pairs": _pairs(random.Random(0), gaps=False),
        "gaps": _pairs(random.Random(0), gaps=True),
        "prompts": _prompts(random.Random(1), 2, 6),
        "even_prompts": _prompts(random.Random(2), 4, 4),
    }
    files = {name: folder / f"{name.replace('_', '-')}.jsonl" for name in made}
    for name, rows in made.items():
        atomic_write_text(files[name], "".join(json.dumps(row) + "\n" for row in rows))
    return TinyWorld(folder / "base", {name: folder / name for name in OBJECTIVES}, **files)
