"""Gradient checkpointing repeats forward passes inside the backward pass, at λ as it is then."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError
from tests.tiny import adapt, tiny_llama

A, B = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
REENTRANT = pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
CHANGED = "between a forward pass and its recomputation by gradient checkpointing"


class Blocks(nn.Module):
    """Three blocks of a linear layer and a nonlinearity, each recomputed, in float64."""

    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.reentrant = reentrant

    def forward(self, x):
        for layer in self.layers:
            x = self.run(lambda x, layer=layer: torch.tanh(layer(x)) + x, x)
        return x

    def run(self, block, x):
        if self.reentrant is None:
            return block(x)
        return checkpoint(block, x, use_reentrant=self.reentrant)


def blocks(reentrant):
    model = Blocks(reentrant).double()
    return model, adapt(model, AdapterConfig(lora_dim=2, lora_scaling=2.0), singular=1.0)


def inputs(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()


def dense_gradients(adapter, preferences):
    """Of Σ over λ of the squared output, each on inputs of its own: dense weights, Eq. 5."""
    leaves = [p.detach().clone().requires_grad_() for p in adapter.parameters()]
    total = 0.0
    for seed, preference in enumerate(preferences):
        x = inputs(seed).detach()
        for index, layer in enumerate(adapter.layers.values()):
            U, V, sigma, s = leaves[4 * index : 4 * index + 4]
            values = torch.cat([sigma, s * preference.double()])  # size = (k + m,)
            weight = layer.weight + U @ torch.diag(values) @ V.t()  # lora_scaling / lora_dim is 1
            x = torch.tanh(x @ weight.t() + layer.bias) + x
        total = total + x.square().sum()
    return torch.autograd.grad(total, leaves)


def assert_same_gradients(adapter, expected):
    assert max(g.abs().max() for g in expected) > 1e-3
    for parameter, gradient in zip(adapter.parameters(), expected, strict=True):
        # σ, s and λ act in float32
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-5)


@REENTRANT
def test_llama_recomputed_at_another_preference(reentrant):
    model = tiny_llama()
    adapter = adapt(model, AdapterConfig(lora_dim=2))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(1))
    adapter.set_preference(A)
    loss = model(ids, labels=ids, use_cache=False).loss
    adapter.set_preference(torch.stack([A, B]) if reentrant else B)
    with pytest.raises(AdapterError, match=CHANGED):
        loss.backward()


@REENTRANT
@pytest.mark.parametrize("change", ["off", "merged", "per sample"])
def test_other_changes_do_not_pass_in_silence_either(reentrant, change):
    """Where the number of saved tensors changes too, torch is first to say so."""
    model, adapter = blocks(reentrant)
    adapter.set_preference(A)
    loss = model(inputs(0)).square().sum()
    context = contextlib.nullcontext()
    if change == "per sample":
        adapter.set_preference(torch.stack([A, B, A, B, A]))
    else:
        context = adapter.disabled() if change == "off" else adapter.merged(A)
    with context, pytest.raises(AdapterError if reentrant else (AdapterError, CheckpointError)):
        loss.backward()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@REENTRANT
def test_set_back_after_an_evaluation_the_gradients_are_right(reentrant):
    model, adapter = blocks(reentrant)
    adapter.set_preference(A)
    loss = model(inputs(0)).square().sum()
    other = inputs(9)
    adapter.set_preference(B)
    with torch.no_grad():
        model(other)
        with adapter.disabled():
            model(other)
    with torch.inference_mode(), adapter.merged(B):
        model(other)
    pickle.loads(pickle.dumps(copy.deepcopy(adapter.state))).set(B)  # a copy's own
    adapter.set_preference(A.clone())
    loss.backward()
    assert_same_gradients(adapter, dense_gradients(adapter, [A]))


@REENTRANT
def test_of_two_passes_the_one_at_another_preference_is_refused(reentrant):
    model, adapter = blocks(reentrant)
    adapter.set_preference(A)
    first = model(inputs(0)).square().sum()
    adapter.set_preference(B)
    second = model(inputs(1)).square().sum()
    second.backward(retain_graph=True)
    for loss in (first, first + second):
        with pytest.raises(AdapterError, match=CHANGED) as raised:
            loss.backward(retain_graph=True)
        assert "\n" not in str(raised.value)
    model.zero_grad()
    second.backward()
    adapter.set_preference(A)
    first.backward()
    assert_same_gradients(adapter, dense_gradients(adapter, [A, B]))


def test_without_checkpointing_saved_tensors_hold_at_any_preference():
    model, adapter = blocks(None)
    losses = []
    for seed, preference in enumerate([A, B]):
        adapter.set_preference(preference)
        losses.append(model(inputs(seed)).square().sum())
    adapter.set_preference(torch.tensor([0.5, 0.5]))
    with torch.autograd.graph.save_on_cpu():
        losses.append(model(inputs(2)).square().sum())
    adapter.set_preference(A)
    sum(losses).backward()
    centre = torch.tensor([0.5, 0.5])
    assert_same_gradients(adapter, dense_gradients(adapter, [A, B, centre]))


@REENTRANT
def test_a_block_that_sets_its_own_preference_may(reentrant):
    """What is repeated then includes the setting."""
    model, adapter = blocks(None)
    first, last = model.layers[0], model.layers[2]

    def block(x):
        adapter.set_preference(A)
        x = torch.tanh(first(x))
        adapter.set_preference(B)
        return last(x)

    block(inputs()).square().sum().backward()
    expected = [p.grad.clone() for p in adapter.parameters() if p.grad is not None]
    model.zero_grad()
    checkpoint(block, inputs(), use_reentrant=reentrant).square().sum().backward()
    got = [p.grad for p in adapter.parameters() if p.grad is not None]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_without_checkpointing_nothing_is_added_to_the_graph():
    model, _ = blocks(None)
    names, queue = set(), [model(inputs()).grad_fn]
    while queue:
        node = queue.pop()
        if node is not None:
            names.add(node.name())
            queue += [following for following, _ in node.next_functions]
    assert "LowRankProductBackward" in names
    assert not any("Witness" in name for name in names)
