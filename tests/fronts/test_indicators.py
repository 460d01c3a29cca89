from __future__ import annotations

import numpy as np
import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.indicators import (
    dominated_count,
    hypervolume,
    indicators,
    inner_product,
    non_dominated_mask,
    spacing,
    sparsity,
    spearman,
)

# Three points of a front and two that (2, 2) dominates, one of them weakly.
PLANE = np.array([[1.0, 3.0], [2.0, 2.0], [1.0, 2.0], [4.0, 1.0], [1.5, 0.5]])
PREFERENCES = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0], [0.75, 0.25]])


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (PLANE, [True, True, False, True, False]),
        (np.ones((3, 2)), [True] * 3),  # equal points do not dominate each other
        (np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0]]), [False, False, True]),
        (np.array([[0.0, 0.0], [0.0, 1e-12]]), [False, True]),  # there is no tolerance
        (np.array([[1.0, 1, 1], [0, 0, 2], [1, 0, 1], [0, 0, 2]]), [True, True, False, True]),
    ],
)
def test_dominance_by_hand(values, kept):
    assert non_dominated_mask(values).tolist() == kept
    assert dominated_count(values) == kept.count(False)


def test_hypervolume_of_the_plane_by_hand():
    # From (0, 0): 4 wide up to 1, 2 wide up to 2, 1 wide up to 3.
    assert hypervolume(PLANE, np.zeros(2)) == pytest.approx(4 + 2 + 1, abs=1e-12)
    # From (-1, 0.5): 5 · 0.5 + 3 + 2.
    assert hypervolume(PLANE, np.array([-1.0, 0.5])) == pytest.approx(7.5, abs=1e-12)


def test_points_on_or_below_the_reference_count_nothing():
    # Only (2, 2) exceeds (1, 1) in both.
    assert hypervolume(PLANE, np.ones(2)) == pytest.approx(1, abs=1e-12)
    assert hypervolume(PLANE, np.array([4.0, 0.0])) == 0.0


def test_hypervolume_in_space_by_hand():
    values = np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]])
    # The unit cube and one more on each of three faces.
    assert hypervolume(values, np.zeros(3)) == pytest.approx(4, abs=1e-12)
    boxes = np.array([[3.0, 2, 1], [1, 2, 3]])  # 6 + 6, less their common 1 · 2 · 1
    assert hypervolume(boxes, np.zeros(3)) == pytest.approx(10, abs=1e-12)
    # From (-1, 0, 0.5): 4 · 2 · 0.5 + 2 · 2 · 2.5 - 2 · 2 · 0.5.
    assert hypervolume(boxes, np.array([-1, 0, 0.5])) == pytest.approx(12, abs=1e-12)


def test_a_reference_of_another_length_is_refused():
    with pytest.raises(UserError) as caught:
        hypervolume(PLANE, np.zeros(3))
    assert str(caught.value) == (
        "a reference point of 3 numbers for 2 objectives: give one for each"
    )


def test_inner_product_by_hand():
    # 3, 2, 1.5, 4 and 1.25.
    assert inner_product(PLANE, PREFERENCES) == pytest.approx(11.75 / 5, abs=1e-12)


def test_sparsity_by_hand():
    # Non-dominated: first 1, 2, 4, second 1, 2, 3: (1 + 4 + 1 + 1) / (2 · 2).
    assert sparsity(PLANE) == pytest.approx(7 / 4, abs=1e-12)


def test_sparsity_sorts_every_objective_by_itself():
    values = np.array([[0.0, 3, 1], [1, 0, 3], [3, 1, 0]])
    assert sparsity(values) == pytest.approx(3 * (1 + 4) / (3 * 2), abs=1e-12)


def test_spacing_by_hand():
    # Nearest neighbours of the three: √2, √2, √5.
    distances = np.array([2.0, 2.0, 5.0]) ** 0.5
    expected = ((distances - distances.mean()) ** 2).mean() ** 0.5
    assert spacing(PLANE) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.387426, abs=1e-6)


def test_spacing_of_even_points_is_zero():
    assert spacing(np.array([[0.0, 3], [1, 2], [2, 1], [3, 0]])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("indicator", [sparsity, spacing])
def test_a_single_non_dominated_point_has_no_gaps(indicator):
    assert indicator(np.array([[1.0, 1.0], [0.0, 0.0]])) == 0.0


def test_spearman_of_monotone_and_opposite_fronts():
    preferences = np.array([[i / 4, 1 - i / 4] for i in range(5)])
    assert spearman(preferences**3, preferences) == pytest.approx([1, 1])
    assert spearman(preferences[::-1] ** 3, preferences) == pytest.approx([-1, -1])


def test_spearman_by_hand():
    preferences = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    values = np.array([[10.0, 4], [30, 3], [20, 2], [40, 1]])
    # One neighbouring pair swapped: 1 - 6 · 2 / (4 · 15).
    assert spearman(values, preferences) == pytest.approx([0.8, 1.0])


def test_spearman_of_a_constant_is_zero():
    preferences = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    values = np.array([[7.0, 3], [7, 2], [7, 1]])
    assert spearman(values, preferences) == pytest.approx([0, 1])
    assert spearman(values, np.full((3, 2), 0.5)) == [0.0, 0.0]


def test_all_of_them_together():
    assert indicators(PLANE, PREFERENCES, [0.0, 0.0]) == {
        "hypervolume": pytest.approx(7),
        "inner_product": pytest.approx(2.35),
        "sparsity": pytest.approx(1.75),
        "spacing": pytest.approx(0.387426, abs=1e-6),
        "dominated": 2,
        "spearman": pytest.approx(spearman(PLANE, PREFERENCES)),
    }
