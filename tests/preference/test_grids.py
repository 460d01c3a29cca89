from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.preference import (
    PreferenceError,
    check_preference,
    default_grid,
    preference_grid,
)


def test_two_objectives_are_the_papers_eleven_points_in_order():
    expected = [[i / 10, (10 - i) / 10] for i in range(11)]
    grid = preference_grid(2)
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0)


@pytest.mark.parametrize(("pref_dim", "count"), [(1, 1), (2, 11), (3, 66), (4, 286)])
def test_number_of_points_at_a_step_of_a_tenth(pref_dim, count):
    grid = preference_grid(pref_dim, 0.1)
    assert grid.shape == (count, pref_dim)
    assert len({tuple(row) for row in grid.tolist()}) == count
    check_preference(grid, pref_dim, atol=1e-6)


def test_three_objectives_by_hand():
    expected = [[0, 0, 1], [0, 0.5, 0.5], [0, 1, 0], [0.5, 0, 0.5], [0.5, 0.5, 0], [1, 0, 0]]
    assert preference_grid(3, 0.5).tolist() == expected


def test_entries_are_multiples_of_the_step():
    scaled = preference_grid(4, 0.25).double() * 4
    assert torch.equal(scaled, scaled.round())


def test_a_step_of_one_leaves_the_vertices():
    assert preference_grid(3, 1.0).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_a_third_is_a_step():
    assert preference_grid(2, 1 / 3).shape == (4, 2)


@pytest.mark.parametrize(
    ("step", "shown"), [(0.3, "0.3"), (0.15, "0.15"), (0.0, "0"), (-0.1, "-0.1"), (2.0, "2")]
)
def test_a_step_that_does_not_divide_one_is_refused(step, shown):
    with pytest.raises(PreferenceError) as caught:
        preference_grid(2, step)
    assert str(caught.value) == f"grid step {shown} does not divide 1: use 0.1, 0.25, 0.5, ..."


def test_no_objective_is_refused():
    with pytest.raises(PreferenceError) as caught:
        preference_grid(0)
    assert str(caught.value) == "a grid needs at least one objective, not 0"


@pytest.mark.parametrize(
    ("pref_dim", "step", "points", "fitting"),
    [
        (2, 1e-9, "1,000,000,001", "use 0.01 or more"),
        (2, 1e-200, "over 10^15", "use 0.01 or more"),
        (3, 0.005, "20,301", "use 0.01 or more"),
        (10, 0.1, "92,378", "use 0.2 or more"),
        (200, 0.5, "20,100", "use 1 or more"),
    ],
)
def test_a_grid_of_too_many_vectors_is_refused(pref_dim, step, points, fitting):
    with pytest.raises(PreferenceError) as caught:
        preference_grid(pref_dim, step)
    assert f"grid step {step:g} makes {points} vectors of {pref_dim} obj" in str(caught.value)
    assert str(caught.value).endswith(fitting)
    assert len(preference_grid(pref_dim, float(fitting.split()[1]))) <= 10_000


def test_a_step_beside_zero_is_refused():
    with pytest.raises(PreferenceError, match="does not divide 1"):
        preference_grid(2, 1e-320)


@pytest.mark.parametrize(
    ("pref_dim", "points"), [(2, 11), (3, 66), (4, 286), (5, 126), (7, 210), (10, 55), (24, 300)]
)
def test_the_default_gets_coarser_with_more_objectives(pref_dim, points):
    grid = default_grid(pref_dim)
    assert grid.shape == (points, pref_dim)
    assert len(grid.unique(dim=0)) == points
    torch.testing.assert_close(grid.sum(dim=-1), torch.ones(points))


def test_the_default_for_very_many_objectives_is_the_vertices_and_the_centre():
    grid = default_grid(30)
    assert grid[:-1].equal(torch.eye(30))
    assert grid[-1].tolist() == pytest.approx([1 / 30] * 30)
