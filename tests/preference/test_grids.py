from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.preference import PreferenceError, check_preference, preference_grid


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
