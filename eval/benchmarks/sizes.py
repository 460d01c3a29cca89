"""How large the benchmarks are: models by name, and what each size measures by default."""

from __future__ import annotations

from typing import Any

Model = dict[str, Any]


def _llama(vocab: int, width: int, inner: int, layers: int, heads: int, **more: Any) -> Model:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        **more,
    }


# Llama configurations; all weights are random.
MODELS: dict[str, Model] = {
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
