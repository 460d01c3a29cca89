"""The fused product, held to dense matrices in float64."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter.product import LowRankProduct, low_rank_product

ROWS, TOKENS, IN, OUT, RANK = 3, 4, 6, 5, 2


def numbers(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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
