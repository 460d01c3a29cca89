"""GRPO's advantages against a computation in Python's floats, and what must hold of them."""

from __future__ import annotations

import math

import pytest
import torch

from safe_rlhf_panacea.algorithms.grpo.advantages import (
    mean_rewards,
    normalize_then_sum,
    sum_then_normalize,
)
from tests.algorithms import plain_grpo


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed, groups=5, size=4, objectives=3):
    """Rewards of different units that are correlated, and λ."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(groups, size, objectives, generator=generator, dtype=torch.float64)
    rewards[..., 1] -= 0.8 * rewards[..., 0]
    rewards = rewards * double([1.0, 30.0, 0.01]) + double([0.0, -400.0, 2.0])
    rewards[0, :, 2] = 7.7  # an objective without spread in one group,
    rewards[1] = rewards[1, :1]  # a group without any,
    preference = torch.rand(groups, objectives, generator=generator, dtype=torch.float64)
    preference[2] = double([1.0, 0.0, 0.0])  # a vertex,
    rewards[2, :, 0] = 1 / 3  # at which the only objective that counts has none
    return rewards, preference / preference.sum(dim=-1, keepdim=True)


def zeros_for_none(groups, size):
    rows = [[None] * size if group is None else group for group in groups]
    return double([[0.0 if value is None else value for value in row] for row in rows])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("advantage", ["sums", "each", "equal steps"])
@pytest.mark.parametrize("seed", range(2))
def test_advantages_agree_with_a_loop(seed, advantage, missing):
    rewards, weights = drawn(seed, groups=8)
    if missing:
        rewards[3, :, 1] = math.nan  # an objective of which a group has no value,
        rewards[4, 1:3] = math.nan  # responses without any,
        rewards[5, :3, 0] = math.nan  # an objective that counts once in a group,
        rewards[6] = math.nan  # and a group without anything
        rewards[7, 0, 2] = math.nan
    plain = [
        [[None if r != r else r for r in response] for response in group]
        for group in rewards.tolist()
    ]
    if advantage == "sums":
        found = sum_then_normalize(rewards, weights)
        expected = plain_grpo.of_sums(plain, weights.tolist())
    else:
        equal_steps = advantage == "equal steps"
        found = normalize_then_sum(rewards, weights, equal_steps=equal_steps)
        expected = plain_grpo.of_each(plain, weights.tolist(), equal_steps)
    torch.testing.assert_close(found.values, zeros_for_none(expected, 4), rtol=0, atol=1e-10)
    flat = [False, True, True, False, False, False, missing, False]
    assert found.without_spread.tolist() == [group is None for group in expected] == flat
    if missing:
        assert found.values[4].ne(0).tolist() == [True, False, False, True]
    torch.testing.assert_close(found.values.sum(dim=1), torch.zeros(8).double(), rtol=0, atol=1e-10)


def test_mean_rewards_of_a_batch_or_of_each_group():
    """Without what is missing."""
    rewards = double([[[math.nan, 4.0], [2.0, math.nan]], [[10.0, math.nan]] * 2])
    (first, second) = mean_rewards(rewards, shared=False).tolist()
    assert first == [2.0, 4.0]
    assert second[0] == 10.0 and math.isnan(second[1])
    assert mean_rewards(rewards, shared=True).tolist() == [pytest.approx([22 / 3, 4.0])] * 2
    # With another process, of one group of (0, 0).
    rewards = double([[[0.0, 4.0], [2.0, 8.0]], [[10.0, 0.0], [20.0, 0.0]]])
    both = mean_rewards(rewards, shared=True, reduce=lambda own: own + double([[0.0], [2.0]]))
    assert both[0].tolist() == pytest.approx([16 / 3, 2.0])


def test_the_least_variance_of_objectives_that_nearly_cancel_out():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 4, 2, generator=generator, dtype=torch.float64)
    rewards[..., 1] = -rewards[..., 0] + 0.01 * rewards[..., 1]
    weights = double([[0.5, 0.5]] * 3 + [[0.9, 0.1]] * 3)
    found = normalize_then_sum(rewards, weights, equal_steps=True).values
    expected = double(plain_grpo.of_each(rewards.tolist(), weights.tolist(), True))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("advantage", [normalize_then_sum, sum_then_normalize])
def test_groups_without_spread_teach_nothing(advantage):
    """Whatever the level, also where rounding leaves the sum of equal rewards unequal."""
    level = torch.tensor([0.1, -123.456, 1e30, 3e-30]).reshape(4, 1, 1)
    rewards = level * torch.ones(4, 4, 2) * torch.tensor([1.0, -1.0])
    rewards[:, 2:] *= 1 + 1e-7
    found = advantage(rewards, torch.full((4, 2), 0.5))
    assert found.without_spread.all()
    assert found.values.eq(0).all()


@pytest.mark.parametrize("advantage", [normalize_then_sum, sum_then_normalize])
def test_spread_counts_at_any_scale(advantage):
    for scale in (1e-25, 1.0, 1e15):
        rewards = scale * torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
        found = advantage(rewards, torch.ones(1, 1))
        assert not found.without_spread.any()
        assert found.values[0].tolist() == pytest.approx(
            [v / math.sqrt(1.25) for v in (-1.5, -0.5, 0.5, 1.5)], abs=1e-6
        )
    rewards = double([[[500.0], [500.001]], [[500.0], [500.0004]]])  # on a high level
    assert advantage(rewards, double([[1.0]] * 2)).without_spread.tolist() == [False, True]


@pytest.mark.parametrize("advantage", [normalize_then_sum, sum_then_normalize])
def test_a_reward_that_is_no_number_shows(advantage):
    rewards, weights = drawn(0)
    rewards[3, 1, 0] = math.inf  # a NaN says that the objective does not count there
    assert advantage(rewards, weights).values[3].isnan().any()
