"""What training does: the first steps, and a preference that is learnt."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from tests.tiny import tiny_llama

A, B = 10, 20


def log_probabilities(model, ids):
    """Of the tokens a and b after each row, size = (rows, 2)."""
    return model(ids).logits[:, -1].log_softmax(-1)[:, [A, B]]


@pytest.mark.parametrize("only_optimize_lora", [True, False])
def test_two_steps_of_sgd(ids, only_optimize_lora):
    """At σ = s = 0 the gradients of U and V vanish; after one step they do not."""
    torch.manual_seed(0)
    model = tiny_llama()
    config = AdapterConfig(lora_dim=2, only_optimize_lora=only_optimize_lora)
    adapter = inject_adapter(model, config)
    own = set(adapter.named_parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        adapter.set_preference(torch.tensor([0.4, 0.6]))
        (-log_probabilities(model, ids)[:, 0].mean()).backward()
        optimizer.step()
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        values = {name for name in own if name.endswith(("lora_sigma", "lora_s"))}
        assert moved & own == (values if step == 0 else own)
        assert bool(moved - own) is not only_optimize_lora


def train(model, adapter, ids, scope, steps=60):
    """Maximise λ-weighted log-probabilities of a and b with Adam."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=5e-3)
    for _ in range(steps):
        first = torch.rand(3 if scope == "sample" else 1, 1, generator=generator)
        preference = torch.cat([first, 1 - first], dim=-1)  # size = (3 or 1, 2)
        adapter.set_preference(preference if scope == "sample" else preference[0])
        loss = -(preference * log_probabilities(model, ids)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def margin(model, adapter, ids, preference):
    """Mean of log π(a) - log π(b) at λ."""
    adapter.set_preference(torch.tensor(preference))
    with torch.no_grad():
        log_a, log_b = log_probabilities(model, ids).unbind(-1)
    return (log_a - log_b).mean().item()


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("options", [{}, {"scaling_per_objective": True}], ids=["eq5", "eq9"])
def test_it_learns_to_prefer_a_or_b(ids, scope, options):
    torch.manual_seed(0)
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight *= 15  # large enough logits to prefer anything at all
    adapter = inject_adapter(model, AdapterConfig(lora_dim=4, lora_scaling=256.0, **options))
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    start = margin(model, adapter, ids, [1.0, 0.0])
    assert start == margin(model, adapter, ids, [0.0, 1.0])
    train(model, adapter, ids, scope)
    likes_a, undecided, likes_b = (
        margin(model, adapter, ids, [first, 1 - first]) for first in (1.0, 0.5, 0.0)
    )
    assert likes_a > 1
    assert likes_b < -1
    assert likes_b < undecided < likes_a
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name], before) for name, before in frozen.items())
