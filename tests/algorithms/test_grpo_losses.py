"""GRPO's loss and its gradients against a computation in Python's floats."""

from __future__ import annotations

import math

import pytest
import torch

from safe_rlhf_panacea.base.losses import grpo_loss, kl_estimate
from tests.algorithms import plain_grpo


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(6, 5, generator=generator, dtype=torch.float64)
    log_probs = old + 0.4 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    ref = old + 0.5 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([5, 1, 3, 0, 4, 2])
    return log_probs, old, ref, advantages, torch.arange(5) < lengths[:, None]


def plain(log_probs, old, ref, advantages, mask, clip, kl):
    parts = [t.tolist() for t in (log_probs, old, ref, advantages, mask)]
    return plain_grpo.loss(*parts, clip, kl)


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("clip", [0.1, 0.25])
def test_loss_and_gradients_agree_with_a_loop(clip, kl):
    log_probs, old, ref, advantages, mask = drawn(0)
    leaf = log_probs.clone().requires_grad_()
    loss = grpo_loss(leaf, old, ref, advantages, mask, clip_range=clip, kl_coeff=kl)
    assert loss.item() == pytest.approx(
        plain(log_probs, old, ref, advantages, mask, clip, kl), abs=1e-12
    )
    loss.backward()
    step = 1e-6
    for b in range(6):
        for t in range(5):
            shifted = []
            for sign in (1, -1):
                other = log_probs.clone()
                other[b, t] += sign * step
                shifted.append(plain(other, old, ref, advantages, mask, clip, kl))
            slope = (shifted[0] - shifted[1]) / (2 * step)
            assert leaf.grad[b, t].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("difference", [-1000.0, -100.0, 19.0, 21.0, 100.0, 1000.0])
def test_the_divergence_stays_finite_however_far_policies_are_apart(difference):
    log_probs = torch.tensor([0.0], requires_grad=True)
    found = kl_estimate(log_probs, torch.tensor([difference]))
    found.sum().backward()
    cut = min(difference, 20.0)
    assert found.item() == pytest.approx(math.exp(cut) - cut - 1, rel=1e-5)
    slope = 1 - math.exp(cut) if difference < 20 else 0.0
    assert log_probs.grad.item() == pytest.approx(slope, rel=1e-5)


def test_micro_batches_of_all_processes_make_the_mean_over_all_tokens():
    parts = [drawn(seed) for seed in range(3)]
    for count, part in enumerate(parts):
        part[-1][:count] = False  # different numbers of tokens
    whole = [torch.cat(column) for column in zip(*parts, strict=True)]
    expected = grpo_loss(*whole, clip_range=0.2, kl_coeff=0.1)
    tokens = whole[-1].sum().double() / 3
    shares = [grpo_loss(*part, clip_range=0.2, kl_coeff=0.1, tokens=tokens) for part in parts]
    assert (sum(shares) / 3).item() == pytest.approx(expected.item(), abs=1e-12)


def test_what_stands_beside_the_responses_may_be_anything():
    log_probs, old, ref, advantages, mask = drawn(1)
    expected = grpo_loss(log_probs, old, ref, advantages, mask, clip_range=0.2, kl_coeff=0.1)
    for value in (math.nan, 1e6, -math.inf):
        parts = [t.masked_fill(~mask, v) for t, v in ((log_probs, value), (old, 0.0), (ref, 0.0))]
        parts[0].requires_grad_()
        loss = grpo_loss(*parts, advantages, mask, clip_range=0.2, kl_coeff=0.1)
        loss.backward()
        assert loss.item() == expected.item()
        assert parts[0].grad[~mask].eq(0).all()
