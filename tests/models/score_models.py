"""Tiny configurations of several architectures, and batches padded on either side."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, Qwen2Config

VOCAB = 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, intermediate_size=32),
    "gpt2": GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=32),
    "qwen2": Qwen2Config(**SIZES, intermediate_size=32, num_key_value_heads=2),
    # Its hidden states are projected to another width at the end.
    "opt": OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=12),
}
PREFIXES = {
    "llama": "model.",
    "gpt2": "transformer.",
    "gpt_neox": "gpt_neox.",
    "qwen2": "model.",
    "opt": "model.",
}


def padded(side: str):
    """Token ids and mask of three rows of 6, 3 and 1 tokens, padded to 6 on one side."""
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.bool)
    for row, length in enumerate((6, 3, 1)):
        place = slice(0, length) if side == "right" else slice(6 - length, 6)
        ids[row, place] = torch.randint(3, VOCAB, (length,), generator=generator)
        mask[row, place] = True
    return ids, mask
