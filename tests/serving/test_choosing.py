"""Draws against the distribution that they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.serving.choosing import Chooser, Sampling

LOGITS = [2.0, 0.0, 1.0, -1.0, 1.5]
CPU = torch.device("cpu")


def expected(temperature, top_p):
    """The distribution, computed anew in float64."""
    weights = np.exp(np.array(LOGITS, dtype=np.float64) / temperature)
    weights /= weights.sum()
    order = np.argsort(-weights)
    kept = order[: np.searchsorted(np.cumsum(weights[order]), top_p) + 1]
    result = np.zeros_like(weights)
    result[kept] = weights[kept] / weights[kept].sum()
    return result


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.3, 0.8), (1.0, 0.3)])
def test_frequencies(temperature, top_p):
    draws = 20_000
    rows = [Sampling(temperature, top_p, seed) for seed in range(draws)]
    tokens = Chooser(rows, CPU).choose(torch.tensor(LOGITS).expand(draws, -1))
    counts = np.bincount(tokens, minlength=5)
    wanted = expected(temperature, top_p)
    assert (counts[wanted == 0] == 0).all()
    # Five standard deviations.
    assert (abs(counts / draws - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / draws)).all()


def test_each_row_is_drawn_its_own_way():
    logits = torch.tensor(LOGITS).expand(4, -1)
    rows = [Sampling(0.0), Sampling(1e-40, seed=1), Sampling(1.0, 1e-9, 2), Sampling(3.0, 1.0, 3)]
    chooser = Chooser(rows, CPU)
    drawn = torch.stack([chooser.choose(logits) for _ in range(50)])
    assert (drawn[:, :3] == 0).all()
    assert drawn[:, 3].unique().numel() > 1
    alone = Chooser([Sampling(3.0, 1.0, 3)], CPU)
    assert drawn[:, 3].tolist() == [int(alone.choose(logits[:1])) for _ in range(50)]
