"""The normaliser's running statistics, against float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import Normalizer


def batches():
    generator = np.random.default_rng(0)
    return [generator.normal(3.0, 2.0, (rows, 2)) for rows in (1, 5, 11)]


def test_running_statistics_over_batches_are_those_of_all_rows():
    normalizer = Normalizer("RunningMeanStd", "affine", (2,))
    for batch in batches():
        normalizer.update(torch.tensor(batch, dtype=torch.float32, requires_grad=True))
        assert normalizer.var.isfinite().all() and not normalizer.mean.requires_grad
    rows = np.concatenate(batches())
    np.testing.assert_allclose(normalizer.mean.numpy(), rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.var.numpy(), rows.var(axis=0), rtol=1e-5)
    assert normalizer.count.tolist() == [17]


@pytest.mark.parametrize("momentum", [0.75, None])
def test_moving_average_weighs_the_old_with_its_momentum(momentum):
    normalizer = Normalizer("ExponentialMovingAverage", "affine", (2,), momentum)
    mean, var, old = np.zeros(2), np.ones(2), momentum or 0.9
    for batch in batches():
        normalizer.update(torch.tensor(batch, dtype=torch.float32))
        mean = old * mean + (1 - old) * batch.mean(axis=0)
        var = old * var + (1 - old) * batch.var(axis=0)
    np.testing.assert_allclose(normalizer.mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(normalizer.var.numpy(), var, rtol=1e-5)
    assert normalizer.count.tolist() == [17]


@pytest.mark.parametrize(
    ("function", "expected"),
    [("affine", 3.0), ("scale", 3.5), ("translate", 6.0), ("identity", 7.0)],
)
def test_what_each_function_does(function, expected):
    normalizer = Normalizer(None, function, (1,))
    assert normalizer.normalize(torch.tensor([7.0])).item() == pytest.approx(7.0)  # at the start
    normalizer.set_mean_var([1.0], [4.0])
    assert normalizer.normalize(torch.tensor([[7.0]])).item() == pytest.approx(expected)


def test_statistics_stay_float32_in_a_bfloat16_model():
    model = torch.nn.Sequential(Normalizer("RunningMeanStd", "affine", (1,)))
    model[0].set_mean_var([1.001], [2.002])
    model.bfloat16()
    assert model[0].mean.item() == pytest.approx(1.001, abs=1e-7)
    assert model[0].var.dtype == torch.float32
    model[0].update(torch.full((4, 1), 3.0, dtype=torch.bfloat16))
    assert model[0].mean.item() == 3.0


def test_bad_arguments():
    for arguments, line in (
        (("Mean", "affine", (1,)), "normalizer_type 'Mean' is none of RunningMeanStd"),
        (("RunningMeanStd", "square", (1,)), "normalize_function 'square' is none of affine"),
        (("ExponentialMovingAverage", "affine", (1,), 1.5), "momentum 1.5 is not in"),
    ):
        with pytest.raises(UserError, match=line):
            Normalizer(*arguments)
    with pytest.raises(UserError, match=r"mean has shape \(1,\), \(2,\) is right"):
        Normalizer(None, "affine", (2,)).set_mean_var([0.0], None)
