"""GRPO's advantages and loss in Python's floats, one response at a time, from the equations.

A reward of None does not count; nor does a response without any.
"""

from __future__ import annotations

import math


def weights_at(means, preference, method, ideal=None, mu=None):
    """∂g/∂J of one prompt, by hand."""
    gaps = [p * (z - v) for p, z, v in zip(preference, ideal or means, means, strict=True)]
    if method == "ls":
        return list(preference)
    if method == "tche":
        worst = [i for i, gap in enumerate(gaps) if gap == max(gaps)]
        return [p / len(worst) if i in worst else 0.0 for i, p in enumerate(preference)]
    powers = [math.exp(gap / mu) for gap in gaps]
    return [p * power / sum(powers) for p, power in zip(preference, powers, strict=True)]


def normalized(values, size=None):
    """A group's values less their mean, over their population's standard deviation."""
    there = [v for v in values if v is not None]
    if not there:
        return None
    if max(there) - min(there) <= 1e-6 * (max(map(abs, there)) if size is None else size):
        return None
    mean = sum(there) / len(there)
    std = math.sqrt(sum((v - mean) ** 2 for v in there) / len(there))
    return [None if v is None else (v - mean) / std for v in values]


def of_sums(rewards, weights):
    """GRPO's advantages of each group; None for one without spread."""
    result = []
    for group, w in zip(rewards, weights, strict=True):
        parts = [
            [a * b for a, b in zip(w, row, strict=True) if b is not None] for row in group
        ]  # of Σ w_i r_i
        size = max(sum(map(abs, products)) for products in parts)
        result.append(normalized([sum(products) if products else None for products in parts], size))
    return result


def of_each(rewards, weights, equal_steps):
    """GDPO's advantages of each group; None for one without spread."""
    m = len(weights[0])
    columns = [[normalized([row[i] for row in g]) for i in range(m)] for g in rewards]

    def correlation(i, j):
        pairs = [
            a * b
            for c in columns
            if c[i] is not None and c[j] is not None
            for a, b in zip(c[i], c[j], strict=True)
            if a is not None and b is not None
        ]
        return sum(pairs) / len(pairs) if pairs else 0.0

    summed = []
    for c, w in zip(columns, weights, strict=True):
        there = [i for i in range(m) if c[i] is not None and w[i] != 0]
        if not there:
            summed.append(None)
            continue
        parts = [
            [w[i] * c[i][g] for i in there if c[i][g] is not None] for g in range(len(c[there[0]]))
        ]
        values = [sum(products) if products else None for products in parts]
        if equal_steps:
            variance = sum(w[i] * w[j] * correlation(i, j) for i in there for j in there)
            variance = max(variance, 0.01 * sum(w[i] ** 2 for i in there))
            values = [v if v is None else v / math.sqrt(variance) for v in values]
        summed.append(values)
    flat = [v for values in summed if values is not None for v in values if v is not None]
    if not flat:
        return summed
    std = math.sqrt(sum(v * v for v in flat) / len(flat) + 1e-8)
    return [values and [v if v is None else v / std for v in values] for values in summed]


def loss(log_probs, old, ref, advantages, mask, clip, kl_coeff):
    """The mean over tokens of surrogate and k3 estimate."""
    losses = []
    for b, a in enumerate(advantages):
        for t, counts in enumerate(mask[b]):
            if not counts:
                continue
            ratio = math.exp(log_probs[b][t] - old[b][t])
            clipped = min(max(ratio, 1 - clip), 1 + clip)
            d = ref[b][t] - log_probs[b][t]
            losses.append(-min(ratio * a, clipped * a) + kl_coeff * (math.exp(d) - d - 1))
    return sum(losses) / max(len(losses), 1)
