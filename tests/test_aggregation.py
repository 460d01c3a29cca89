from __future__ import annotations

import itertools
import math

import pytest
import torch

from safe_rlhf_panacea.aggregation import (
    AggregationError,
    IdealPoint,
    aggregate_losses,
    aggregate_rewards,
    objective_weights,
)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


LOSSES = [[1.0, 4.0], [3.0, 2.0], [8.0, 6.0]]
MASK = [[True, True], [True, False], [False, True]]
ONE = [0.25, 0.75]
PER_ROW = [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]


def batched(preference, rows=3):
    """λ of every row, and the scope: one vector holds for the batch, several for their rows."""
    preference = double(preference)
    one = preference.dim() == 1
    return preference.expand(rows, -1), "batch" if one else "sample"


def message(call, *args, **kwargs):
    with pytest.raises(AggregationError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def loop(losses, mask, preference, method):
    """The definitions, row by row in Python floats."""
    rows, objectives = range(len(losses)), range(len(losses[0]))
    weights = preference if isinstance(preference[0], list) else [preference] * len(losses)
    if method == "tche" and isinstance(preference[0], list):
        worst = []
        for b in rows:
            labelled = [weights[b][i] * losses[b][i] for i in objectives if mask[b][i]]
            worst += [max(labelled)] if labelled else []
        return sum(worst) / max(len(worst), 1)
    means = []
    for i in objectives:
        labelled = [weights[b][i] * losses[b][i] for b in rows if mask[b][i]]
        means += [sum(labelled) / len(labelled)] if labelled else []
    if not means:
        return 0.0
    return sum(means) if method == "ls" else max(means)


@pytest.mark.parametrize(
    ("preference", "method", "expected"),
    [
        (ONE, "ls", 0.25 * 2 + 0.75 * 5),  # the means over labelled rows are 2 and 5
        (ONE, "tche", 3.75),
        # λL of labelled entries: (0.25, 3), (1.5, -), (-, 0).
        (PER_ROW, "ls", 1.75 / 2 + 3 / 2),
        (PER_ROW, "tche", (3 + 1.5 + 0) / 3),
    ],
)
def test_losses_with_a_mask_by_hand(preference, method, expected):
    preference, scope = batched(preference)
    loss = aggregate_losses(double(LOSSES), torch.tensor(MASK), preference, method, scope)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_the_expectation_is_inside_the_max_for_one_preference():
    losses = double([[0.0, 4.0], [4.0, 0.0]])
    half = double([[0.5, 0.5]] * 2)
    assert aggregate_losses(losses, None, half, "tche", "batch").item() == 1.0  # max of the means
    assert aggregate_losses(losses, None, half, "tche", "sample").item() == 2.0  # mean of maxima


@pytest.mark.parametrize("method", ["ls", "tche"])
@pytest.mark.parametrize("preference", [ONE, PER_ROW])
def test_a_batch_without_labels_is_zero_with_zero_gradients(preference, method):
    losses = double(LOSSES).requires_grad_()
    preference, scope = batched(preference)
    loss = aggregate_losses(losses, torch.zeros(3, 2), preference, method, scope)
    assert loss.item() == 0.0
    loss.backward()
    assert losses.grad.tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("method", ["ls", "tche"])
@pytest.mark.parametrize("preference", [ONE, PER_ROW])
def test_what_is_not_labelled_may_be_anything(preference, method):
    losses = double(LOSSES)
    losses[~torch.tensor(MASK)] = math.nan
    losses.requires_grad_()
    preference, scope = batched(preference)
    loss = aggregate_losses(losses, torch.tensor(MASK), preference, method, scope)
    loss.backward()
    assert math.isfinite(loss.item())
    assert losses.grad[~torch.tensor(MASK)].tolist() == [0.0, 0.0]
    assert torch.isfinite(losses.grad).all()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("method", ["ls", "tche"])
@pytest.mark.parametrize("seed", range(5))
def test_values_and_gradients_agree_with_a_loop(method, own, seed):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 3, generator=generator) < 0.6
    mask[0] = False  # a row that no objective labels
    mask[:, seed % 3] &= seed % 2 == 0  # and, for odd seeds, an objective without labels
    mask |= seed == 4
    shape = (6, 3) if own else (3,)
    preference = torch.rand(shape, generator=generator, dtype=torch.float64)
    preference /= preference.sum(dim=-1, keepdim=True)
    plain, labels, weights = losses.tolist(), mask.tolist(), preference.tolist()

    leaf = losses.clone().requires_grad_()
    rows, scope = batched(weights, 6)
    loss = aggregate_losses(leaf, None if seed == 4 else mask, rows, method, scope)
    loss.backward()
    assert loss.dtype == torch.float64 and loss.shape == ()
    assert loss.item() == pytest.approx(loop(plain, labels, weights, method), abs=1e-12)
    step = 1e-6
    for b in range(6):
        for i in range(3):
            up, down = ([row.copy() for row in plain] for _ in range(2))
            up[b][i] += step
            down[b][i] -= step
            rise = loop(up, labels, weights, method) - loop(down, labels, weights, method)
            assert leaf.grad[b, i].item() == pytest.approx(rise / (2 * step), abs=1e-8)


def share(losses, mask, preference, rows, count=2):
    """One process's loss and gradients, where ``reduce`` sums over all rows' processes."""
    leaf = losses.clone().requires_grad_()

    def reduce(statistics):
        sums = (losses * preference * mask).sum(dim=0)
        everywhere = torch.cat([sums, mask.sum(dim=0).to(sums), double([count])])
        own = torch.cat([(losses * preference * mask)[rows].sum(dim=0), mask[rows].sum(dim=0)])
        assert torch.allclose(statistics, torch.cat([own, double([1.0])]), rtol=1e-12)
        return everywhere

    loss = aggregate_losses(leaf[rows], mask[rows], preference[rows], "tche", reduce=reduce)
    loss.backward()
    return loss.item(), leaf.grad


@pytest.mark.parametrize("seed", range(4))
def test_shares_of_processes_average_to_the_maximum_of_the_whole_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(9, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(9, 3, generator=generator) < 0.6
    mask[:4, seed % 3] = False  # of which one process has no label
    one = torch.rand(3, generator=generator, dtype=torch.float64)
    preference = one.expand(9, -1)
    whole = losses.clone().requires_grad_()
    expected = aggregate_losses(whole, mask, preference, "tche")
    expected.backward()
    assert expected.item() == pytest.approx(
        loop(losses.tolist(), mask.tolist(), one.tolist(), "tche"), abs=1e-12
    )
    shares = [share(losses, mask, preference, rows) for rows in (slice(0, 4), slice(4, 9))]
    assert sum(loss for loss, _ in shares) / 2 == pytest.approx(expected.item(), abs=1e-12)
    mean = sum(gradient for _, gradient in shares) / 2
    torch.testing.assert_close(mean, whole.grad, rtol=0, atol=1e-12)


def test_a_tie_between_objectives_shares_the_gradient_among_processes():
    losses = double([[1.0, 3.0], [3.0, 1.0], [2.0, 2.0]])  # means 2 and 2
    mask, preference = torch.ones(3, 2, dtype=torch.bool), double([0.5, 0.5]).expand(3, -1)
    shares = [share(losses, mask, preference, rows) for rows in (slice(0, 1), slice(1, 3))]
    assert sum(loss for loss, _ in shares) / 2 == pytest.approx(1.0, abs=1e-12)  # 0.5 · 2
    mean = sum(gradient for _, gradient in shares) / 2
    # λ / 3 for each of the tied objectives, halved
    torch.testing.assert_close(mean, torch.full_like(losses, 0.5 / 3 / 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("labelled", [True, False])
def test_one_process_alone_is_a_batch_of_its_own(labelled):
    """Ties and batches without labels included, bit for bit."""
    mask = torch.tensor(MASK) if labelled else torch.zeros(3, 2, dtype=torch.bool)
    for preference in (batched(ONE)[0], batched([5 / 7, 2 / 7])[0]):  # at the second both are 10/7
        results = []
        for reduce in (None, lambda statistics: statistics):
            losses = double(LOSSES).requires_grad_()
            loss = aggregate_losses(losses, mask, preference, "tche", reduce=reduce)
            loss.backward()
            results.append((loss.item(), losses.grad.tolist()))
        assert results[0] == results[1]


def test_a_loss_that_is_no_number_shows_through_the_processes():
    losses = double([[math.nan, 1.0], [2.0, 1.0]])
    rows, _ = batched(ONE, 2)
    assert math.isnan(aggregate_losses(losses, None, rows, "tche", reduce=lambda s: s).item())


def test_nothing_is_reduced_where_nothing_is_shared():
    def refuse(statistics):
        raise AssertionError

    aggregate_losses(double(LOSSES), None, batched(ONE)[0], "ls", reduce=refuse)
    aggregate_losses(double(LOSSES), None, double(PER_ROW), "tche", "sample", reduce=refuse)


@pytest.mark.parametrize("call", [aggregate_rewards, lambda v, p: aggregate_losses(v, None, p)])
@pytest.mark.parametrize(
    ("values", "preference"),
    [((3, 2), (2,)), ((3, 2), (2, 2)), ((3, 2), (3, 3)), ((2,), (2,)), ((3, 2), (1, 2))],
)
def test_shapes_that_do_not_fit_are_refused(call, values, preference):
    assert message(call, torch.zeros(values), torch.zeros(preference)) == (
        f"values of shape {values} and preferences of shape {preference} do not fit: "
        "both must be (B, m)"
    )


@pytest.mark.parametrize(
    ("call", "more", "said"),
    [
        (aggregate_losses, ("max",), "unknown aggregation 'max': choose ls or tche"),
        (aggregate_losses, ("ls", "row"), "unknown scope 'row': choose batch or sample"),
        (aggregate_rewards, ("max",), "unknown aggregation 'max': choose ls or tche or stche"),
        (aggregate_rewards, ("tche",), "tche needs an ideal point"),
        (
            aggregate_rewards,
            ("tche", double([1.0])),
            "an ideal point of shape (1,): the last size must be 2, one for each objective",
        ),
        (aggregate_rewards, ("stche", double(ONE)), "stche needs a positive μ, not None"),
        (aggregate_rewards, ("stche", double(ONE), math.nan), "stche needs a positive μ, not nan"),
    ],
)
def test_what_does_not_fit_is_refused(call, more, said):
    mask = (None,) if call is aggregate_losses else ()
    assert message(call, double(LOSSES), *mask, batched(ONE)[0], *more) == said


def test_a_mask_of_another_shape_is_refused():
    assert message(aggregate_losses, double(LOSSES), torch.ones(3, 1), batched(ONE)[0]) == (
        "a mask of shape (3, 1) does not fit losses of shape (3, 2): they must be the same"
    )


class TestIdealPoint:
    def test_keeps_the_best_of_each_objective(self):
        ideal = IdealPoint(2)
        with pytest.raises(AggregationError, match="not known before the first update"):
            _ = ideal.value
        ideal.update(torch.tensor([[1.0, -3.0], [0.5, -2.0]]))
        assert ideal.value.tolist() == [1.0, -2.0]
        ideal.update(torch.tensor([[0.0, 7.0]], requires_grad=True))
        assert ideal.value.tolist() == [1.0, 7.0]
        assert not ideal.value.requires_grad

    def test_other_numbers_of_objectives_are_refused(self):
        assert message(IdealPoint(2).update, torch.zeros(4, 1)) == (
            "rewards of shape (4, 1): the last size must be 2, one for each objective"
        )
        assert message(IdealPoint(2).load_state_dict, {"best": torch.zeros(3)}) == (
            "a saved ideal point of shape (3,): the last size must be 2, one for each objective"
        )

    def test_a_saved_state_is_a_copy_and_can_be_loaded(self):
        ideal, restored = IdealPoint(2), IdealPoint(2)
        ideal.update(torch.tensor([[1.0, -3.0]]))
        state = ideal.state_dict()
        ideal.update(torch.tensor([[9.0, 9.0]]))
        restored.load_state_dict(state)
        restored.update(torch.tensor([[0.0, 4.0]]))
        assert restored.value.tolist() == [1.0, 4.0]
        assert state["best"].tolist() == [1.0, -3.0]


@pytest.mark.parametrize("mu", [1.0, 0.1, 1e-3])
def test_smooth_tchebycheff_lies_within_mu_log_m_of_the_sharp_one(mu):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    preference = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    ideal = double([3.0, 3.0, 3.0])
    sharp = aggregate_rewards(values, preference, "tche", ideal)
    below = sharp - aggregate_rewards(values, preference, "stche", ideal, mu)
    assert (below >= 0).all()
    assert (below <= mu * math.log(3) + 1e-12).all()


def test_weights_by_hand():
    values, ideal = double([[2.0, -4.0], [5.0, 3.0]]), double([5.0, 3.0])
    preference = double([ONE, ONE])
    assert objective_weights(values, preference).tolist() == [ONE, ONE]
    # The widest weighted gap is the second's; at the ideal point both are 0 and share.
    found = objective_weights(values, preference, "tche", ideal).tolist()
    assert found == [[0.0, 0.75], [0.125, 0.375]]
    soft = [math.exp(0.75 / 2), math.exp(5.25 / 2)]
    expected = [p * e / sum(soft) for p, e in zip(ONE, soft, strict=True)]
    found = objective_weights(values, preference, "stche", ideal, 2.0)[0]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def missing(values):
    """None as NaN, in float64."""
    return double([[math.nan if v is None else v for v in row] for row in values])


WITH_NONE = [[3.0, None, -2.0], [None, None, 4.0], [None, None, None], [1.0, 2.0, 3.0]]
IDEAL, MU = [3.0, 2.5, 4.0], 0.3


def plain_reward(row, weights, method):
    """Of one sequence, in Python's floats, over what it has."""
    there = [(v, w, z) for v, w, z in zip(row, weights, IDEAL, strict=True) if v is not None]
    if not there:
        return 0.0
    if method == "ls":
        return sum(w * v for v, w, _ in there)  # the weights as they are: not made to sum to one
    if method == "tche":
        return min(w * (v - z) for v, w, z in there)
    return -MU * math.log(sum(math.exp(w * (z - v) / MU) for v, w, z in there))


@pytest.mark.parametrize("method", ["ls", "tche", "stche"])
def test_rewards_of_objectives_that_do_not_count(method):
    """Values, and as their gradients the weights of the objectives."""
    preference = [[0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]
    given = (double(preference), method, double(IDEAL), MU)
    found = aggregate_rewards(missing(WITH_NONE), *given)
    expected = [plain_reward(*rows, method) for rows in zip(WITH_NONE, preference, strict=True)]
    torch.testing.assert_close(found, double(expected), rtol=0, atol=1e-12)
    weights = objective_weights(missing(WITH_NONE), *given)
    step = 1e-6
    for b, i in itertools.product(range(4), range(3)):
        rise = 0.0
        if WITH_NONE[b][i] is not None:
            up, down = (
                [*WITH_NONE[b][:i], WITH_NONE[b][i] + d, *WITH_NONE[b][i + 1 :]]
                for d in (step, -step)
            )
            rise = plain_reward(up, preference[b], method) - plain_reward(
                down, preference[b], method
            )
        assert weights[b, i].item() == pytest.approx(rise / (2 * step), abs=1e-7)


def test_the_ideal_point_of_objectives_that_have_not_counted():
    point = IdealPoint(3)
    point.update(missing([[3.0, None, -2.0], [None, None, 4.0]]))
    assert point.value.tolist() == [3.0, -math.inf, 4.0]
    rewards = missing([[1.0, None, 4.0], [None, None, None]])
    third = double([[1 / 3] * 3] * 2)
    ideal = point.value.double()
    for method in ("tche", "stche"):
        assert aggregate_rewards(rewards, third, method, ideal, 0.1).isfinite().all()
        assert objective_weights(rewards, third, method, ideal, 0.1).isfinite().all()
    assert aggregate_rewards(rewards, third, "tche", ideal).tolist() == pytest.approx([-2 / 3, 0])
    other = IdealPoint(3)
    other.load_state_dict(point.state_dict())
    other.update(missing([[None, 1.0, None]]))
    assert other.value.tolist() == [3.0, 1.0, 4.0]
    nothing = IdealPoint(1)
    nothing.update(missing([[None]]))
    assert nothing.value.tolist() == [-math.inf]
