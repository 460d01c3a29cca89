"""Tiny look-alikes of the published Beaver score models, in both layouts.

Nothing here uses this package or a model class of transformers: tensors are drawn, and
configurations are written out as they were published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast

from tests.tiny import CHARACTERS, WORDS

WIDTH, INNER, LAYERS, HEADS = 16, 24, 2, 4
# The pad token was added to Llama's 32000: the last id of an odd number.
TOKENS = ("<unk>", "<s>", "</s>", *WORDS, *CHARACTERS[:-1], "<pad>")
VOCAB, PAD = len(TOKENS), len(TOKENS) - 1
EPSILON = 1e-6

COMMON: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": PAD,
    "rms_norm_eps": EPSILON,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": VOCAB,
}
OLDER = {
    **COMMON,
    "architectures": ["LlamaModelForScore"],
    "bias": False,
    "score_dim": 1,
    "max_sequence_length": 64,
    "transformers_version": "4.28.1",
}
TODAYS = {
    **COMMON,
    "architectures": ["LlamaForScore"],
    "attention_bias": False,
    "do_normalize": False,
    "normalizer_type": None,
    "num_key_value_heads": HEADS,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "score_bias": True,
    "score_dim": 1,
    "score_type": "reward",
    "transformers_version": "4.37.2",
}
UNIFIED = {
    **TODAYS,
    "do_normalize": True,
    "normalizer_type": "ExponentialMovingAverage",
    "momentum": 0.9,
    "mean": [-0.0757],
    "var": [2.25],
}
CONFIGS = {"older": OLDER, "todays": TODAYS, "unified": UNIFIED}

Tensors = dict[str, torch.Tensor]


def backbone(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensors:
    """The backbone's tensors, under the names that Safe-RLHF saves them with."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, mean: float = 0.0) -> torch.Tensor:
        return (mean + 0.3 * torch.randn(shape, generator=generator)).to(dtype)

    tensors = {"model.embed_tokens.weight": draw(VOCAB, WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in "qkvo":
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = draw(WIDTH, WIDTH)
        tensors[f"{prefix}mlp.gate_proj.weight"] = draw(INNER, WIDTH)
        tensors[f"{prefix}mlp.up_proj.weight"] = draw(INNER, WIDTH)
        tensors[f"{prefix}mlp.down_proj.weight"] = draw(WIDTH, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = draw(WIDTH, mean=1.0)
    return {**tensors, "model.norm.weight": draw(WIDTH, mean=1.0)}


def score_tensors(layout: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensors:
    """All tensors of a score model in a layout."""
    tensors = backbone(seed, dtype)
    generator = torch.Generator().manual_seed(seed + 100)
    tensors["score_head.weight"] = torch.randn(1, WIDTH, generator=generator).to(dtype)
    if layout == "older":
        frequencies = 1.0 / 10000 ** (torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
        for layer in range(LAYERS):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = frequencies.clone()
        return tensors
    statistics = (0.0, 1.0, 0) if layout == "todays" else (-0.0757, 2.25, 70)
    tensors["score_head.bias"] = torch.tensor([0.25], dtype=dtype)
    tensors["normalizer.mean"] = torch.tensor([statistics[0]])
    tensors["normalizer.var"] = torch.tensor([statistics[1]])
    tensors["normalizer.count"] = torch.tensor([statistics[2]])
    return tensors


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def write_beaver(
    folder: Path, layout: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, shards: int = 1
) -> Tensors:
    """Write a score model in a layout, with its tokenizer; return its tensors."""
    tensors = score_tensors(layout, seed, dtype)
    write_config(folder, {**CONFIGS[layout], "torch_dtype": str(dtype).removeprefix("torch.")})
    tokenizer().save_pretrained(folder)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return tensors
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return tensors


def write_policy(folder: Path, seed: int = 7) -> None:
    """Write a language model on the same tokens."""
    tensors = backbone(seed)
    generator = torch.Generator().manual_seed(seed)
    tensors["lm_head.weight"] = torch.randn(VOCAB, WIDTH, generator=generator)
    write_config(
        folder, {**COMMON, "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}
    )
    tokenizer().save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def tokenizer() -> PreTrainedTokenizerFast:
    """Words of the template and single characters; the pad token has the last id."""
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pieces = Regex(r"\b(" + "|".join(WORDS) + r")\b|[\s\S]")
    backend.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="isolated")
    backend.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
