"""Losses, log-probabilities, masks and advantages against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from safe_rlhf_panacea.base import losses
from safe_rlhf_panacea.forward.passes import position_ids_from_mask
from safe_rlhf_panacea.forward.probabilities import gather_log_probabilities

BETA, CLIP = 0.1, 0.2


def rows_and_tokens(seed=0, rows=5, tokens=7):
    """Three tensors of random numbers, size = (B, T), and a mask of responses that end early."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, rows, tokens, generator=generator, dtype=torch.float64)
    ends = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    return *drawn, torch.arange(tokens) < ends


def test_log_ratios_are_summed_over_each_response():
    policy, reference, _, mask = rows_and_tokens()
    found = losses.summed_log_ratios(policy, reference, mask)
    for row in range(len(mask)):
        expected = math.fsum(
            policy[row, t].item() - reference[row, t].item()
            for t in range(mask.size(1))
            if mask[row, t]
        )
        assert found[row].item() == pytest.approx(expected, abs=1e-12)


def test_margins_point_to_the_response_that_an_objective_prefers():
    better, worse = torch.tensor([1.0, 0.5]).double(), torch.tensor([-1.0, 2.0]).double()
    labels = torch.tensor([[1, -1, 0], [-1, 1, 1]])
    found = losses.labelled_margins(better, worse, labels)
    assert found.tolist() == [[2.0, -2.0, 0.0], [1.5, -1.5, -1.5]]
    for margin, loss in zip(found.flatten(), losses.preference_loss(found).flatten(), strict=True):
        assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-margin))), abs=1e-12)


def test_the_penalty_is_at_every_token_and_the_reward_at_the_last():
    policy, reference, _, mask = rows_and_tokens(1)
    reward = torch.tensor([2.0, -1.0, 0.5, 9.0, -9.0]).double()
    found = losses.kl_penalised_rewards(reward, policy, reference, mask, BETA, 3.0)
    for row, counted in enumerate(mask.tolist()):
        last = max(t for t, counts in enumerate(counted) if counts)
        for t in range(last + 1):
            expected = -BETA * (policy[row, t] - reference[row, t]).item()
            expected += reward[row].item() if t == last else 0.0
            assert found[row, t].item() == pytest.approx(min(3.0, max(-3.0, expected)), abs=1e-12)


@pytest.mark.parametrize("width", [7, 1])
def test_the_surrogate_takes_the_worse_of_the_two(width):
    new, old, advantages, _ = rows_and_tokens(2)
    advantages = advantages[:, :width]  # one for each token, or one for the response
    found = losses.clipped_surrogate(new, old, advantages, CLIP)
    kinds = set()
    for row in range(len(new)):
        for t in range(new.size(1)):
            ratio = math.exp(new[row, t] - old[row, t])
            clipped = min(1 + CLIP, max(1 - CLIP, ratio))
            advantage = advantages[row, t % width].item()
            expected = min(ratio * advantage, clipped * advantage)
            kinds.add((advantage > 0, ratio > 1, expected == ratio * advantage))
            assert found[row, t].item() == pytest.approx(expected, abs=1e-12)
    assert len(kinds) >= 4  # both signs, both sides, clipped and not


def test_value_errors_take_the_larger_of_the_two():
    values, old, returns, _ = rows_and_tokens(3)
    found = losses.clipped_value_errors(values, old, returns, CLIP)
    clips = set()
    for new, before, wanted, error in zip(
        *(x.flatten().tolist() for x in (values, old, returns, found)), strict=True
    ):
        clipped = min(before + CLIP, max(before - CLIP, new))
        clips.add(clipped == new)
        expected = max((new - wanted) ** 2, (clipped - wanted) ** 2) / 2
        assert error == pytest.approx(expected, abs=1e-12)
    assert clips == {True, False}


def test_next_tokens_are_averaged_over_the_labelled_ones():
    log_probs, tokens = torch.tensor([-3.0, -0.5, 0.0]), torch.tensor([2, 3, 0])
    assert losses.next_token_loss(log_probs, tokens).item() == pytest.approx(3.5 / 5)
    average = torch.tensor(0.25)  # of four micro-batches three have no label at all
    assert losses.next_token_loss(log_probs, tokens, average).item() == pytest.approx(14.0)


def test_a_mean_over_no_token_is_0_and_has_no_gradient():
    log_probs, none = torch.zeros(2, requires_grad=True), torch.zeros(2, dtype=torch.long)
    loss = losses.next_token_loss(log_probs, none)
    loss.backward()
    assert loss.item() == 0 and log_probs.grad.isfinite().all()


@pytest.mark.parametrize("ratio", [-1000.0, -100.0, 19.0, 21.0, 100.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.5, 0.0, 1.5])
def test_the_surrogate_stays_finite_however_far_policies_are_apart(ratio, advantage):
    new = torch.tensor([[ratio]], requires_grad=True)
    found = losses.clipped_surrogate(new, torch.zeros(1, 1), torch.tensor([[advantage]]), CLIP)
    found.sum().backward()
    whole = math.exp(min(ratio, 20.0))
    expected = min(advantage * whole, advantage * min(1 + CLIP, max(1 - CLIP, whole)))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    slope = advantage * whole if ratio < 20 and expected == advantage * whole else 0.0
    assert new.grad.item() == pytest.approx(slope, rel=1e-5)


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
    assert losses.masked_mean(values, mask).item() == pytest.approx((2.0 + 5.0) / 2)
    assert losses.masked_mean(values, torch.zeros_like(mask)).item() == 0.0


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
    better, worse = losses.diverging_mask(BETTER, BETTER_MASK, WORSE, WORSE_MASK)
    # index t predicts token t + 1: tokens 2, 3, 4 of the better and 2 of the worse
    assert better.tolist() == [[False, True, True, True, False]]
    assert worse.tolist() == [[False, True, False, False, False]]


def test_upstream_slice_forgets_the_shift():
    masks = losses.diverging_mask(BETTER, BETTER_MASK, WORSE, WORSE_MASK, upstream_slice=True)
    # Safe-RLHF: slice(diverge, end + 1) on shifted values
    diverge, better_end, worse_end = 2, 4, 2
    expected_better, expected_worse = [False] * 5, [False] * 5
    expected_better[slice(diverge, better_end + 1)] = [True] * (better_end + 1 - diverge)
    expected_worse[slice(diverge, worse_end + 1)] = [True] * (worse_end + 1 - diverge)
    assert [mask.tolist() for mask in masks] == [[expected_better], [expected_worse]]


def test_diverging_mask_when_one_answer_is_the_beginning_of_the_other():
    longer, longer_mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])
    shorter, shorter_mask = torch.tensor([[5, 6, 0, 0]]), torch.tensor([[1, 1, 0, 0]])
    better, worse = losses.diverging_mask(longer, longer_mask, shorter, shorter_mask)
    assert better.tolist() == [[False, True, False]]
    assert worse.tolist() == [[False, False, False]]


def test_diverging_mask_where_they_differ_by_an_end_token_that_is_the_pad_token():
    ids, ended, cut = torch.tensor([[5, 6, 2, 2]]), [[1, 1, 1, 0]], [[1, 1, 0, 0]]
    better, worse = losses.diverging_mask(ids, torch.tensor(ended), ids, torch.tensor(cut))
    assert better.tolist() == [[False, True, False]]
    assert worse.tolist() == [[False, False, False]]


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
    advantages, returns = losses.generalized_advantages(values, rewards, mask, gamma, lam)
    assert torch.allclose(advantages, expected, atol=1e-12)
    assert torch.allclose(returns, expected + values * mask, atol=1e-12)


def test_whitened_values_have_zero_mean_and_unit_variance_on_the_mask():
    values = torch.tensor([[1.0, 3.0, 50.0], [5.0, 7.0, 50.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    result = losses.whiten(values, mask)
    # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    assert result[:, 2].tolist() == [0.0, 0.0]
    assert result[0, 0].item() == pytest.approx(-3 / math.sqrt(5), abs=1e-5)
    assert result[1, 1].item() == pytest.approx(3 / math.sqrt(5), abs=1e-5)
