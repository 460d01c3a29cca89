"""Log-probabilities, masks and advantages against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from safe_rlhf_panacea.base.losses import (
    diverging_mask,
    gather_log_probabilities,
    generalized_advantages,
    masked_mean,
    position_ids_from_mask,
    whiten,
)


def test_log_probabilities_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0]]])
    result = gather_log_probabilities(logits, torch.tensor([[1, 1]]))
    assert result.tolist()[0] == pytest.approx([math.log(3 / 4), math.log(1 / 5)], abs=1e-6)


def test_log_probabilities_of_bfloat16_are_summed_in_float32():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 1000).bfloat16()
    labels = torch.randint(1000, (2, 3))
    expected = logits.double().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    result = gather_log_probabilities(logits, labels)
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), expected, atol=1e-5)


def test_masked_mean_counts_sequences_alike_and_skips_empty_rows():
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert masked_mean(values, mask).item() == pytest.approx((2.0 + 5.0) / 2)
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0.0


def test_position_ids_do_not_depend_on_the_padding_side():
    left = position_ids_from_mask(torch.tensor([[0, 0, 1, 1]]))
    right = position_ids_from_mask(torch.tensor([[1, 1, 0, 0]]))
    assert left[0, 2:].tolist() == right[0, :2].tolist() == [0, 1]


# A pair that shares two tokens, with answers of three and one tokens, and one pad column.
BETTER = torch.tensor([[5, 6, 7, 8, 9, 0]])
BETTER_MASK = torch.tensor([[1, 1, 1, 1, 1, 0]])
WORSE = torch.tensor([[5, 6, 4, 0, 0, 0]])
WORSE_MASK = torch.tensor([[1, 1, 1, 0, 0, 0]])


def test_diverging_mask_takes_the_first_differing_token_and_no_padding():
    better, worse = diverging_mask(BETTER, BETTER_MASK, WORSE, WORSE_MASK)
    # index t predicts token t + 1: tokens 2, 3, 4 of the better and 2 of the worse
    assert better.tolist() == [[False, True, True, True, False]]
    assert worse.tolist() == [[False, True, False, False, False]]


def test_upstream_slice_forgets_the_shift():
    better, worse = diverging_mask(BETTER, BETTER_MASK, WORSE, WORSE_MASK, upstream_slice=True)
    # Safe-RLHF: slice(diverge, end + 1) on shifted values
    diverge, better_end, worse_end = 2, 4, 2
    expected_better, expected_worse = [False] * 5, [False] * 5
    expected_better[slice(diverge, better_end + 1)] = [True] * (better_end + 1 - diverge)
    expected_worse[slice(diverge, worse_end + 1)] = [True] * (worse_end + 1 - diverge)
    assert better.tolist() == [expected_better]
    assert worse.tolist() == [expected_worse]


def test_diverging_mask_when_one_answer_is_the_beginning_of_the_other():
    longer, longer_mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])
    shorter, shorter_mask = torch.tensor([[5, 6, 0, 0]]), torch.tensor([[1, 1, 0, 0]])
    better, worse = diverging_mask(longer, longer_mask, shorter, shorter_mask)
    assert better.tolist() == [[False, True, False]]
    assert worse.tolist() == [[False, False, False]]


def test_diverging_mask_where_they_differ_by_an_end_token_that_is_the_pad_token():
    ids, ended, cut = torch.tensor([[5, 6, 2, 2]]), [[1, 1, 1, 0]], [[1, 1, 0, 0]]
    better, worse = diverging_mask(ids, torch.tensor(ended), ids, torch.tensor(cut))
    assert better.tolist() == [[False, True, False]]
    assert worse.tolist() == [[False, False, False]]


def test_advantages_by_hand():
    # gamma 1, lambda 1/2, values 0: A_t = r_t + A_{t+1} / 2
    rewards = torch.tensor([[1.0, 0.0, 4.0]])
    advantages, returns = generalized_advantages(
        torch.zeros(1, 3), rewards, torch.ones(1, 3), gamma=1.0, gae_lambda=0.5
    )
    assert advantages.tolist() == [[2.0, 2.0, 4.0]]
    assert returns.tolist() == [[2.0, 2.0, 4.0]]


def test_advantages_agree_with_a_loop_over_time():
    generator = torch.Generator().manual_seed(1)
    values, rewards = torch.randn(2, 4, 9, generator=generator, dtype=torch.float64)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [6]])).double()
    gamma, lam = 0.9, 0.95
    expected = torch.zeros(4, 9, dtype=torch.float64)
    for row in range(4):
        running = 0.0
        for t in reversed(range(9)):
            v = values[row, t] * mask[row, t]
            after = values[row, t + 1] * mask[row, t + 1] if t < 8 else 0.0
            running = rewards[row, t] * mask[row, t] + gamma * after - v + gamma * lam * running
            expected[row, t] = running
    advantages, returns = generalized_advantages(values, rewards, mask, gamma, lam)
    assert torch.allclose(advantages, expected, atol=1e-12)
    assert torch.allclose(returns, expected + values * mask, atol=1e-12)


def test_whitened_values_have_zero_mean_and_unit_variance_on_the_mask():
    values = torch.tensor([[1.0, 3.0, 50.0], [5.0, 7.0, 50.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    result = whiten(values, mask)
    # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    assert result[:, 2].tolist() == [0.0, 0.0]
    assert result[0, 0].item() == pytest.approx(-3 / math.sqrt(5), abs=1e-5)
    assert result[1, 1].item() == pytest.approx(3 / math.sqrt(5), abs=1e-5)
