"""Products with frozen weights by either library, and the fused product against dense matrices."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, product
from safe_rlhf_panacea.adapter.product import LowRankProduct, low_rank_product
from tests.tiny import adapt, tiny_llama

ROWS, TOKENS, IN, OUT, RANK = 3, 4, 6, 5, 2


def numbers(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[False, True], ids=["default", "onednn"])
def by_onednn(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(product, "onednn_is_faster", lambda: request.param)
    return request.param


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_both_libraries_give_the_product(by_onednn, transposed, with_bias, monkeypatch):
    asked = []
    own = product._by_onednn
    monkeypatch.setattr(product, "_by_onednn", lambda *args: asked.append(1) or own(*args))
    x, bias = (numbers(*shape, seed=0, dtype=torch.float32) for shape in ((7, 6), (5,)))
    weight = numbers(*((6, 5) if transposed else (5, 6)), seed=1, dtype=torch.float32)
    weight, bias = weight.t() if transposed else weight, bias if with_bias else None
    expected = x.double() @ weight.double().t() + (bias.double() if with_bias else 0)
    found = product.frozen_linear(x, weight, bias)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert bool(asked) == by_onednn
    # Other types are left to torch.
    assert product.frozen_linear(x.double(), weight.double()).dtype == torch.float64


def test_where_the_operator_is_missing_the_default_stays(monkeypatch):
    def missing(*args):
        raise AttributeError("no such operator")

    monkeypatch.setattr(product, "_by_onednn", missing)
    product.onednn_is_faster.cache_clear()
    try:
        assert product.onednn_is_faster() is False
    finally:
        product.onednn_is_faster.cache_clear()


def adapted():
    model = tiny_llama(vocab=20)
    return model, adapt(model, AdapterConfig(lora_dim=2), std=0.05)


def test_two_steps_have_the_same_gradients_by_either_library(monkeypatch):
    ids, gradients = torch.arange(27).view(3, 9) % 20, []
    for choice in (False, True):
        monkeypatch.setattr(product, "onednn_is_faster", lambda choice=choice: choice)
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
            torch.nn.init.zeros_(parameter)
    ids = torch.arange(10).view(2, 5)
    with torch.no_grad():
        untrained = model(ids).logits
        with adapter.disabled():
            assert torch.equal(model(ids).logits, untrained)


# -- the fused product ----------------------------------------------------------------


def parts(by_row):
    x = numbers(ROWS * TOKENS, IN, seed=0)
    v, u = numbers(IN, RANK, seed=1), numbers(OUT, RANK, seed=2)
    diagonal = numbers(ROWS, RANK, seed=3) if by_row else numbers(RANK, seed=3)
    return [tensor.requires_grad_() for tensor in (x, v, u, diagonal)]


def dense(x, weight, bias, v, u, diagonal):
    """Each row of the batch with a dense matrix of its own."""
    diagonals = diagonal if diagonal.dim() == 2 else diagonal.expand(ROWS, RANK)
    rows = [
        part @ (weight + u @ torch.diag(d) @ v.t()).t()
        for part, d in zip(x.view(ROWS, TOKENS, IN), diagonals, strict=True)
    ]
    return torch.cat(rows) + (0 if bias is None else bias)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_two_steps_equal_those_of_dense_matrices(by_row, with_bias, transposed):
    weight = numbers(OUT, IN, seed=4)
    kept = weight.t().contiguous() if transposed else weight
    bias = numbers(OUT, seed=5) if with_bias else None
    factors = numbers(ROWS * TOKENS, OUT, seed=6)
    ours, plain = parts(by_row), parts(by_row)
    for _ in range(2):
        x, v, u, d = ours
        found = LowRankProduct.apply(x, kept, bias, v, u, d, transposed)
        with torch.no_grad():
            assert torch.equal(low_rank_product(x, kept, bias, v, u, d, transposed)[0], found)
        x, v, u, d = plain
        expected = dense(x, weight, bias, v, u, d)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for tensors, result in ((ours, found), (plain, expected)):
            slopes = torch.autograd.grad((result * factors).sum(), tensors)
            for tensor, slope in zip(tensors, slopes, strict=True):
                tensor.data -= 0.01 * slope
        for first, second in zip(ours, plain, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_only_what_is_trained_gets_a_gradient():
    x, v, u, d = parts(by_row=False)
    weight = numbers(OUT, IN, seed=4)
    LowRankProduct.apply(x.detach(), weight, None, v, u.detach(), d, False).sum().backward()
    assert x.grad is None
    assert u.grad is None
    assert weight.grad is None
    expected = dense(x, weight, None, v, u, d).sum()
    slopes = torch.autograd.grad(expected, (v, d))
    torch.testing.assert_close((v.grad, d.grad), slopes)


def test_a_second_derivative_is_refused_and_not_wrong():
    x, v, u, d = parts(by_row=False)
    found = LowRankProduct.apply(x, numbers(OUT, IN, seed=4), None, v, u, d, False).square().sum()
    (slope,) = torch.autograd.grad(found, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
