"""A Llama with a score head in NumPy's float64, for the tensors of ``beaver``."""

from __future__ import annotations

import numpy as np

from tests.models.beaver import EPSILON, HEADS, LAYERS, WIDTH, Tensors


def _normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON) * weight


def _rotated(x: np.ndarray) -> np.ndarray:
    """Rotary positions, x of shape (T, heads, d): coordinate i turns with coordinate i + d/2."""
    length, _, d = x.shape
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)  # (T, d/2)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[..., : d // 2], x[..., d // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    length, d = len(x), WIDTH // HEADS
    q, k, v = (
        (x @ weights[f"self_attn.{name}_proj.weight"].T).reshape(length, HEADS, d) for name in "qkv"
    )
    mixed = np.empty((length, HEADS, d))
    q, k = _rotated(q), _rotated(k)
    for head in range(HEADS):
        for t in range(length):
            logits = k[: t + 1, head] @ q[t, head] / np.sqrt(d)
            share = np.exp(logits - logits.max())
            mixed[t, head] = share / share.sum() @ v[: t + 1, head]
    return mixed.reshape(length, WIDTH) @ weights["self_attn.o_proj.weight"].T


def _feed_forward(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    gate = x @ weights["mlp.gate_proj.weight"].T
    up = x @ weights["mlp.up_proj.weight"].T
    return (gate / (1 + np.exp(-gate)) * up) @ weights["mlp.down_proj.weight"].T


def scores_by_hand(tensors: Tensors, ids: list[int]) -> np.ndarray:
    """The raw score at every token of one sequence, size = (T,)."""
    arrays = {name: value.double().numpy() for name, value in tensors.items()}
    x = arrays["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        x = x + _attention(_normed(x, own["input_layernorm.weight"]), own)
        x = x + _feed_forward(_normed(x, own["post_attention_layernorm.weight"]), own)
    hidden = _normed(x, arrays["model.norm.weight"])
    return hidden @ arrays["score_head.weight"][0] + arrays.get("score_head.bias", [0.0])[0]
