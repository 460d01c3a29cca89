"""Panacea-PPO's losses in float64, one row and one token at a time.

Written from the equations; of the package it uses nothing but numbers. A Llama without padding:
every row is cut to its own tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FACTOR = 512 / 8  # lora_scaling / lora_dim
TEMPERATURE = 1.0  # a test of another one sets it


def rms_norm(x, weight, eps=1e-6):
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def rotated(x, theta=10000.0):
    """Rotary positions on x, size = (H, L, D)."""
    half = x.size(-1) // 2
    speeds = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.size(1), dtype=torch.float64)[:, None] * speeds  # size = (L, D/2)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def hidden_states(weights, tokens, heads=4):
    """The last hidden states of one row, size = (L, E)."""
    length = len(tokens)
    x = weights["model.embed_tokens.weight"][tokens]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    layers = 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)
    for layer in range(layers):

        def w(name, layer=layer):
            return weights[f"model.layers.{layer}.{name}.weight"]

        h = rms_norm(x, w("input_layernorm"))
        q, k, v = (
            (h @ w(f"self_attn.{n}_proj").T).view(length, heads, -1).transpose(0, 1) for n in "qkv"
        )
        q, k = rotated(q), rotated(k)
        scores = (q @ k.transpose(1, 2) / math.sqrt(q.size(-1))).masked_fill(future, -math.inf)
        mixed = (scores.softmax(dim=-1) @ v).transpose(0, 1).reshape(length, -1)
        x = x + mixed @ w("self_attn.o_proj").T
        h = rms_norm(x, w("post_attention_layernorm"))
        gated = torch.nn.functional.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)
        x = x + gated @ w("mlp.down_proj").T
    return rms_norm(x, weights["model.norm.weight"])


def doubled(tensors):
    return {name: tensor.detach().double() for name, tensor in tensors.items()}


def at_preference(weights, factors, preference):
    """W(λ) = W0 + factor · U diag(σ, s·λ) Vᵀ in every adapted layer."""
    composed = dict(weights)
    for name in {name.rpartition(".")[0] for name in factors if ".lora_" in name}:
        part = {x: factors[f"{name}.lora_{x}"] for x in ("U", "V", "sigma", "s")}
        middle = torch.diag(torch.cat([part["sigma"], part["s"] * preference]))
        update = part["U"] @ middle @ part["V"].T
        composed[f"{name}.weight"] = weights[f"{name}.weight"] + FACTOR * update
    return composed


@dataclass
class Row:
    """One response.

    Attributes:
        tokens: prompt and response, size = (L,).
        start: length of the prompt.
        preference: λ, size = (m,).
    """

    tokens: torch.Tensor
    start: int
    preference: torch.Tensor


def rows_of(batch):
    """The rows of a rolled-out batch, without padding."""
    width = batch["prompt"].size(1)
    rows = []
    for i, (ids, mask) in enumerate(
        zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    ):
        preference = batch["preference"].double()
        preference = preference[i] if preference.dim() == 2 else preference
        rows.append(Row(ids[mask], int(mask[:width].sum()), preference))
    return rows


def log_probs(weights, row):
    """Of the tokens of the response, size = (T,)."""
    logits = hidden_states(weights, row.tokens) @ weights["lm_head.weight"].T / TEMPERATURE
    predicted = logits.log_softmax(dim=-1)[row.start - 1 : -1]
    return predicted[range(len(predicted)), row.tokens[row.start :]]


def values(weights, factors, row):
    """The critic's before each token of the response, size = (T,)."""
    hidden = hidden_states(at_preference(weights, factors, row.preference), row.tokens)
    scores = hidden @ factors["value_head.weight"].T + factors["value_head.bias"]
    return scores[row.start - 1 : -1, 0]


def rewards(models, rows):
    """Every reward model's score of the last token, size = (B, m)."""
    return torch.stack(
        [
            torch.stack(
                [hidden_states(w, r.tokens)[-1] @ w["score_head.weight"][0] for w in models]
            )
            for r in rows
        ]
    )


def aggregated(found, rows, aggregation):
    """Σ λ_i r_i, or min λ_i (r_i - z_i) with the best reward so far as z_i."""
    ideal = found.max(dim=0).values
    totals = []
    for reward, row in zip(found, rows, strict=True):
        parts = row.preference * (reward if aggregation == "ls" else reward - ideal)
        totals.append(parts.sum() if aggregation == "ls" else parts.min())
    return torch.stack(totals)


def advantages(old_values, token_rewards, gae_lambda=0.95, gamma=1.0):
    """By the recursion over time, backwards."""
    result, later, next_value = [], 0.0, 0.0
    for t in reversed(range(len(old_values))):
        delta = token_rewards[t] + gamma * next_value - old_values[t]
        later = delta + gamma * gae_lambda * later
        next_value = old_values[t]
        result.insert(0, later)
    return torch.stack(result)


def token_rewards(reward, old, reference, kl_coeff, clip):
    """The KL penalty at every token and the reward at the last, clipped."""
    result = []
    for t in range(len(old)):
        total = -kl_coeff * (old[t] - reference[t])
        if t == len(old) - 1:
            total = total + reward
        result.append(total.clamp(-clip, clip))
    return torch.stack(result)


def whitened(rows):
    flat = torch.cat(rows)
    mean = flat.mean()
    deviation = ((flat - mean).square().mean() + 1e-8).sqrt()
    return [(row - mean) / deviation for row in rows]


def actor_loss(new, old, weights, clip):
    """The clipped surrogate: mean over each row's tokens, then over rows."""
    losses = []
    for row, before, advantage in zip(new, old, weights, strict=True):
        total = 0.0
        for t in range(len(row)):
            ratio = (row[t] - before[t]).exp()
            bounded = ratio.clamp(1 - clip, 1 + clip)
            total = total - torch.min(advantage[t] * ratio, advantage[t] * bounded)
        losses.append(total / len(row))
    return sum(losses) / len(losses)


def critic_loss(new, old, returns, clip):
    """Half the larger of the two squared errors: mean over tokens, then over rows."""
    losses = []
    for row, before, aim in zip(new, old, returns, strict=True):
        total = 0.0
        for t in range(len(row)):
            bounded = row[t].clamp(before[t] - clip, before[t] + clip)
            total = total + torch.max((row[t] - aim[t]).square(), (bounded - aim[t]).square())
        losses.append(total / len(row))
    return 0.5 * sum(losses) / len(losses)


def text_loss(weights, factors, batch, preference):
    """Cross entropy over all labelled tokens of a supervised batch."""
    total, count = 0.0, 0
    for i, mask in enumerate(batch["attention_mask"].bool()):
        ids, labels = batch["input_ids"][i][mask], batch["labels"][i][mask]
        own = preference.double()
        own = own[i % len(own)] if own.dim() == 2 else own
        composed = at_preference(weights, factors, own)
        logits = hidden_states(composed, ids) @ composed["lm_head.weight"].T
        predicted = logits.log_softmax(dim=-1)
        for t in range(1, len(ids)):
            if labels[t] != -100:
                total, count = total - predicted[t - 1, labels[t]], count + 1
    return total / count
