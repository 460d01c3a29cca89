"""Drawing by inversion, against numpy's cumulative sum and search."""

from __future__ import annotations

import numpy
import pytest
import torch

from safe_rlhf_panacea.forward.generation import invert

WIDTHS = [1, 54, 1025, 5000, 49152]  # below and above the size that needs blocks, whole and not


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_finds_the_token_that_a_plain_sum_finds(width, dtype):
    generator = torch.Generator().manual_seed(width)
    weights = (3 * torch.randn(200, width, generator=generator, dtype=dtype)).exp()
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    expected = []
    for row, number in zip(weights.double().numpy(), uniform.tolist(), strict=True):
        sums = numpy.cumsum(row)
        expected.append(int(numpy.searchsorted(sums, number * sums[-1], side="right")))
    assert invert(weights, uniform).tolist() == expected


@pytest.mark.parametrize("width", WIDTHS[1:4])
def test_evenly_spaced_numbers_give_each_token_its_share_to_a_count(width):
    count = 4 * width
    weights = torch.rand(1, width, generator=torch.Generator().manual_seed(0))
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = torch.cat([invert(weights.expand(len(part), -1), part) for part in numbers.split(512)])
    share = weights[0].double() / weights.double().sum()
    assert (torch.bincount(drawn, minlength=width) - count * share).abs().max() <= 1


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_what_weighs_nothing_is_never_drawn(width):
    weights = torch.zeros(3, width)
    weights[:, width // 2] = 1e-30
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert invert(weights, uniform).tolist() == [width // 2] * 3


@pytest.mark.parametrize("width", WIDTHS)
def test_weights_that_are_not_finite_give_a_token_of_the_vocabulary(width):
    weights = torch.full((1, width), float("nan"))
    assert invert(weights, torch.tensor([0.5], dtype=torch.float64)).tolist() == [width - 1]
