"""What is measured: models with random weights, by name, and pairs of random tokens."""

from __future__ import annotations

import json
import random
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def _llama(vocab: int, width: int, inner: int, layers: int, heads: int, **more: Any) -> dict:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        **more,
    }


# Llama configurations.
MODELS: dict[str, dict[str, Any]] = {
    "tiny": _llama(64, 32, 64, 1, 4),
    "narrow": _llama(512, 64, 160, 3, 4),
    "wide": _llama(2048, 256, 640, 6, 4),
    "wordy": _llama(32000, 512, 1280, 4, 8),
    # SmolLM2-135M's, Llama 3.2 1B's and Llama 2 7B's.
    "135m": _llama(49152, 576, 1536, 30, 9, num_key_value_heads=3, tie_word_embeddings=True),
    "1b": _llama(128256, 2048, 8192, 16, 32, num_key_value_heads=8, tie_word_embeddings=True),
    "7b": _llama(32000, 4096, 11008, 32, 32),
}
# What is measured unless flags say otherwise; longest: tokens of a sequence; prompts: of a rollout.
SIZES: dict[str, dict[str, Any]] = {
    "quick": dict(models=["tiny"], batch=2, prompts=2, longest=32, rounds=2, warmup=1),
    "cpu": dict(models=["narrow", "wide"], batch=16, prompts=64, longest=128, rounds=9, warmup=2),
    "gpu": dict(models=["1b", "7b"], batch=16, prompts=64, longest=512, rounds=9, warmup=2),
}

OBJECTIVES = ("helpful", "harmless")
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = ("BEGINNING", "OF", "CONVERSATION", "USER", "ASSISTANT", ":", "red", "green", "blue")
# The benchmarks make their own batches; a trainer only wants some rows to begin with.
ROWS = [
    {
        "prompt": f"{word} red",
        "response_0": "green blue",
        "response_1": "blue green",
        "better_response_id": 0,
        "safer_response_id": 1,
        "is_response_0_safe": True,
        "is_response_1_safe": True,
        **{f"better_objective_{i}": 0 for i in range(16)},
    }
    for word in WORDS[-3:] * 32
]


def make_model(name: str, device: str = "cpu") -> Any:
    """A causal language model of the table; bfloat16 on an accelerator."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **MODELS[name], max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    return model if device == "cpu" else model.to(torch.bfloat16)


def make_tokenizer() -> Any:
    """A word each for a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pad, bos, eos, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )


def job_of(args: Namespace, part: str, imports: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a worker is told: the sizes of the flags, what it imports first, and what is its own."""
    names = ("device", "work", "batch", "prompts", "longest")
    sizes = {name: getattr(args, name, None) for name in names}
    return {"part": part, "imports": [*imports], **sizes, **more}


def folder_of(job: dict[str, Any]) -> Path:
    """Where a job finds its model."""
    return Path(job["work"]) / job["model"]


def write_models(job: dict[str, Any]) -> Callable[[Any], None]:
    """Work that writes a model, data of the two forms and, if asked for, two reward models."""

    def write(_: Any) -> None:
        folder = folder_of(job)
        model, tokenizer = make_model(job["model"], job["device"]), make_tokenizer()
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        (folder / "pairs").mkdir()
        texts = [{"prompt": row["prompt"], "response": row["response_0"]} for row in ROWS]
        for file, rows in (("pairs/train.jsonl", ROWS), ("texts.jsonl", texts)):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / file).write_text(lines, encoding="utf-8")
        for name in OBJECTIVES if job["rewards"] else ():
            from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models

            score_model, tokenizer = load_pretrained_models(
                str(folder / "base"),
                auto_model_type=AutoModelForScore,
                auto_model_kwargs={"score_type": "reward", "fresh_head": True},
            )
            score_model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)

    return write


# Tokens by row: prompt, what both sequences share, better, worse.
HH_LENGTHS = Path(__file__).with_name("hh_lengths.json")
FIRST_TOKEN = 4  # below it are the special ones


def lengths(kind: str, longest: int) -> list[list[int]]:
    """What rows are drawn from: ``real``, hh-rlhf's, cut, or ``equal``, of a quarter prompt."""
    if kind == "equal":
        return [[longest // 4, longest // 4, longest, longest]]
    rows = json.loads(HH_LENGTHS.read_text(encoding="utf-8"))
    cut = [[min(tokens, longest) for tokens in row] for row in rows]
    # Pairs that are the same after the cut, or have no response, are left out as in training.
    return [row for row in cut if row[1] < max(row[2:]) and row[0] < min(row[2:])]


def pair_batches(
    kind: str, rows: int, longest: int, vocab: int, objectives: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Batches without end, the same for everyone who is measured; ``PreferenceBatch``'s keys."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    choices, chance = lengths(kind, longest), random.Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def pair(row: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Better and worse sequence of random tokens that part where the row says."""
        _, shared, better, worse = row
        size = (max(better, worse),)
        ids = torch.randint(FIRST_TOKEN, vocab, size, generator=generator)
        other = torch.randint(FIRST_TOKEN, vocab, size, generator=generator)
        other[:shared] = ids[:shared]
        if shared < min(better, worse):
            other[shared] = FIRST_TOKEN + (ids[shared] + 1 - FIRST_TOKEN) % (vocab - FIRST_TOKEN)
        return ids[:better], other[:worse]

    while True:
        drawn = chance.choices(choices, k=rows)
        pairs = [pair(row) for row in drawn]
        padded = pad_sequence([ids for side in zip(*pairs, strict=True) for ids in side], True)
        (better, worse), (better_mask, worse_mask) = padded.chunk(2), padded.ne(0).chunk(2)
        signs = torch.randint(0, 2, (rows, objectives), generator=generator) * 2 - 1
        yield {
            "better_input_ids": better,
            "better_attention_mask": better_mask,
            "worse_input_ids": worse,
            "worse_attention_mask": worse_mask,
            "labels": signs.float(),
            "prompt_length": torch.tensor([row[0] for row in drawn]),
        }
