"""Tiny bases that vLLM runs: its kernels want heads of 32 numbers."""

from __future__ import annotations

from tests.export import models

# A server's beside those that a run gives it; CPU kernels need no compilation.
FLAGS = ("--enforce-eager", "--max-num-seqs", "64")
WIDE = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}


def made(kind, folder, **options):
    """A base model's folder and that of an adapter which does something: ``models.saved``."""
    make = {"llama": lambda: models.llama(**WIDE), "qwen2": lambda: models.qwen2(**WIDE)}[kind]
    models.MODELS["wide"] = make, {}
    return models.saved("wide", folder, **options)
