"""Tiny bases that vLLM runs: its kernels want heads of 32 numbers."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.export import models

# A server's beside those that a run gives it; CPU kernels need no compilation.
FLAGS = ("--enforce-eager", "--max-num-seqs", "64")
WIDE = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}


def qwen2():
    """With biases that matter."""
    model = Qwen2ForCausalLM(Qwen2Config(**WIDE, **HEADS, tie_word_embeddings=False))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    return model


def made(kind, folder, **options):
    """A base model's folder and that of an adapter which does something: ``models.saved``."""
    make = {"llama": lambda: models.llama(**WIDE), "qwen2": qwen2}[kind]
    models.MODELS["wide"] = make, {}
    return models.saved("wide", folder, **options)
