"""Products with frozen weights by either library."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, frozen, inject_adapter
from tests.tiny import tiny_llama


@pytest.fixture(params=[False, True], ids=["default", "onednn"])
def by_onednn(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(frozen, "onednn_is_faster", lambda: request.param)
    return request.param


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_both_give_the_product(by_onednn, transposed, with_bias, monkeypatch):
    asked = []
    product = frozen._by_onednn
    monkeypatch.setattr(frozen, "_by_onednn", lambda *args: asked.append(1) or product(*args))
    x, weight = numbers(7, 6), numbers(6, 5, seed=1).t() if transposed else numbers(5, 6, seed=1)
    bias = numbers(5, seed=2) if with_bias else None
    expected = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    found = frozen.frozen_linear(x, weight, bias)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert bool(asked) == by_onednn
    # Other types are left to torch.
    assert frozen.frozen_linear(x.double(), weight.double()).dtype == torch.float64


def adapted():
    torch.manual_seed(0)
    model = tiny_llama(vocab=20)
    config = AdapterConfig(lora_dim=2, objectives=("a", "b"), lora_module_name="layers")
    adapter = inject_adapter(model, config)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model, adapter


def test_two_steps_have_the_same_gradients(monkeypatch):
    ids, gradients = torch.randint(20, (3, 9)), []
    for choice in (False, True):
        monkeypatch.setattr(frozen, "onednn_is_faster", lambda choice=choice: choice)
        model, adapter = adapted()
        optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            with adapter.at(torch.tensor([0.3, 0.7])):
                model(ids).logits.square().mean().backward()
            optimizer.step()
        gradients.append([p.grad for p in adapter.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_switched_off_and_untrained_give_the_same_bits(by_onednn):
    model, adapter = adapted()
    for name, parameter in adapter.named_parameters().items():
        if name.endswith(("sigma", "_s")):
            nn.init.zeros_(parameter)
    ids = torch.randint(20, (2, 5))
    with torch.no_grad():
        untrained = model(ids).logits
        with adapter.disabled():
            assert torch.equal(model(ids).logits, untrained)


def test_where_the_operator_is_missing_the_default_stays(monkeypatch):
    def missing(*args):
        raise AttributeError("no such operator")

    monkeypatch.setattr(frozen, "_by_onednn", missing)
    frozen.onednn_is_faster.cache_clear()
    try:
        assert frozen.onednn_is_faster() is False
    finally:
        frozen.onednn_is_faster.cache_clear()
