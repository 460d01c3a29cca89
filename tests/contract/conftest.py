"""Models and data that both sides read."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models
from tests.tiny import tiny_llama, tiny_tokenizer

ROWS = 80  # ten steps of eight


def write_folder(folder, rows):
    """A folder that ``datasets`` reads as the split ``train``."""
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return folder


def pair(generator):
    """A row with Safe-RLHF's fields; its two labels agree half of the time."""
    answers = ["a" * generator.randint(2, 7), "b" * generator.randint(2, 7)]
    return {
        "prompt": "".join(generator.choices("cdefghij", k=generator.randint(3, 8))),
        "response_0": answers[0],
        "response_1": answers[1],
        "better_response_id": generator.randint(0, 1),
        "safer_response_id": generator.randint(0, 1),
        "is_response_0_safe": True,
        "is_response_1_safe": False,
    }


def text(generator):
    """A row for the PTX loss, with the fields of both sides."""
    prompt = "".join(generator.choices("cdefg", k=generator.randint(3, 6)))
    answer = "ab" * generator.randint(1, 4)
    return {
        "prompt": prompt,
        "response": answer,
        "instruction": prompt,
        "input": "",
        "output": answer,
    }


def save_reward(base, folder, seed):
    torch.manual_seed(seed)
    model, tokenizer = load_pretrained_models(
        str(base),
        auto_model_type=AutoModelForScore,
        auto_model_kwargs={"score_type": "reward", "fresh_head": True},
    )
    with torch.no_grad():
        model.score_head.weight *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def files(tmp_path_factory):
    """``base``, ``rewards`` by name, ``pairs`` and ``texts``."""
    import datasets

    root = tmp_path_factory.mktemp("contract")
    datasets.config.HF_DATASETS_CACHE = root / "cache"
    generator = random.Random(0)
    tokenizer = tiny_tokenizer()
    model = tiny_llama(vocab=len(tokenizer), seed=0)
    with torch.no_grad():
        model.lm_head.weight *= 15
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    return SimpleNamespace(
        base=root / "base",
        rewards={
            name: save_reward(root / "base", root / name, seed)
            for seed, name in enumerate(("helpful", "harmless"))
        },
        pairs=write_folder(root / "pairs", [pair(generator) for _ in range(ROWS)]),
        texts=write_folder(root / "texts", [text(generator) for _ in range(ROWS)]),
    )
