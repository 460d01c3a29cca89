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
from torch import nn

from safe_rlhf_panacea.io import atomic_write_text

OBJECTIVES = ("helpful", "harmless")
# Prompts of the template and six letters, and room for answers of about 24 letters.
MAX_LENGTH = 44
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = ("BEGINNING", "OF", "CONVERSATION", "USER", "ASSISTANT")  # the template's
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,:"
ROWS = 64


@dataclass(frozen=True)
class TinyWorld:
    """Where everything lies.

    Attributes:
        base: the policy to start from, with its tokenizer.
        rewards: objective to reward model.
        pairs: answers of several lengths, every pair labelled by both objectives.
        gaps: pairs of which some lack a label.
        prompts: prompts of several lengths, so that batches are padded.
        even_prompts: prompts of one length: no batch is padded, whoever is in it.
    """

    base: Path
    rewards: Mapping[str, Path]
    pairs: Path
    gaps: Path
    prompts: Path
    even_prompts: Path


@torch.no_grad()
def fill(parameters: Iterable[tuple[str, torch.Tensor]], seed: int, std: float = 0.0) -> None:
    """Overwrite tensors with numbers that depend on seed, name and shape alone.

    Args:
        parameters: names and tensors; those of one dimension are left alone.
        seed: tells two models of the same names apart.
        std: standard deviation; 0 for that which keeps activations at their size,
            1 / √in_features, with logits of twice that.
    """
    for name, tensor in parameters:
        if tensor.dim() < 2:
            continue
        stream = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
        scale = std or (2.0 if "lm_head" in name else 1.0) / tensor.size(1) ** 0.5
        drawn = scale * stream.standard_normal(tuple(tensor.shape))
        tensor.copy_(torch.from_numpy(drawn))


def _tokenizer() -> Any:
    """Words of the template and single characters, known by heart and not learnt."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *WORDS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    split = Regex(r"\b(" + "|".join(WORDS) + r")\b|[\s\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(split, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    pad, bos, eos, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )


def _config(vocabulary: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
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


def _save(model: nn.Module, tokenizer: Any, seed: int, folder: Path) -> Path:
    fill(model.named_parameters(), seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


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
    from transformers import LlamaForCausalLM

    from safe_rlhf_panacea.models import AutoModelForScore

    tokenizer = _tokenizer()
    config = _config(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        base = _save(LlamaForCausalLM(config), tokenizer, 0, folder / "base")
        rewards = {
            name: _save(AutoModelForScore.from_config(config), tokenizer, seed, folder / name)
            for seed, name in enumerate(OBJECTIVES, start=1)
        }
    return TinyWorld(
        base=base,
        rewards=rewards,
        pairs=_write(folder / "pairs.jsonl", _pairs(random.Random(0), gaps=False)),
        gaps=_write(folder / "gaps.jsonl", _pairs(random.Random(0), gaps=True)),
        prompts=_write(folder / "prompts.jsonl", _prompts(random.Random(1), 2, 6)),
        even_prompts=_write(folder / "even-prompts.jsonl", _prompts(random.Random(2), 4, 4)),
    )
