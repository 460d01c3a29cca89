from __future__ import annotations

import numpy as np
import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.indicators import (
    hypervolume,
    non_dominated_mask,
    spacing,
    sparsity,
    spearman,
)

# Three points of a front and two that (2, 2) dominates, one of them weakly.
PLANE = np.array([[1.0, 3.0], [2.0, 2.0], [1.0, 2.0], [4.0, 1.0], [1.5, 0.5]])


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


SPACE = np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]])
BOXES = np.array([[3.0, 2, 1], [1, 2, 3]])


@pytest.mark.parametrize(
    ("values", "reference", "volume"),
    [
        (PLANE, [0, 0], 4 + 2 + 1),  # 4 wide up to 1, 2 wide up to 2, 1 wide up to 3
        (PLANE, [-1.0, 0.5], 5 * 0.5 + 3 + 2),
        (PLANE, [1, 1], 1),  # only (2, 2) exceeds (1, 1) in both
        (PLANE, [4.0, 0.0], 0),
        (SPACE, [0, 0, 0], 4),  # the unit cube and one more on each of three faces
        (BOXES, [0, 0, 0], 10),  # 6 + 6, less their common 1 · 2 · 1
        (BOXES, [-1, 0, 0.5], 4 * 2 * 0.5 + 2 * 2 * 2.5 - 2 * 2 * 0.5),
    ],
)
def test_hypervolume_by_hand(values, reference, volume):
    assert hypervolume(values, reference) == pytest.approx(volume, abs=1e-12)


def test_a_reference_of_another_length_is_refused():
    with pytest.raises(UserError, match="a reference point of 3 numbers for 2 objectives: give"):
        hypervolume(PLANE, np.zeros(3))


def test_sparsity_and_spacing_by_hand():
    # Non-dominated: first 1, 2, 4, second 1, 2, 3: (1 + 4 + 1 + 1) / (2 · 2).
    assert sparsity(PLANE) == pytest.approx(7 / 4, abs=1e-12)
    # Every objective is sorted by itself.
    values = np.array([[0.0, 3, 1], [1, 0, 3], [3, 1, 0]])
    assert sparsity(values) == pytest.approx(3 * (1 + 4) / (3 * 2), abs=1e-12)

    # Nearest neighbours of the three: √2, √2, √5.
    distances = np.array([2.0, 2.0, 5.0]) ** 0.5
    expected = ((distances - distances.mean()) ** 2).mean() ** 0.5
    assert spacing(PLANE) == pytest.approx(expected, abs=1e-12)
    assert spacing(np.array([[0.0, 3], [1, 2], [2, 1], [3, 0]])) == pytest.approx(0, abs=1e-12)
    single = np.array([[1.0, 1.0], [0.0, 0.0]])  # the one that is not dominated has no gaps
    assert sparsity(single) == spacing(single) == 0.0


LINE = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("values", "preferences", "expected"),
    [
        (LINE**3, LINE, [1, 1]),
        (LINE[::-1] ** 3, LINE, [-1, -1]),
        # One neighbouring pair swapped: 1 - 6 · 2 / (4 · 15).
        (np.array([[10.0, 4], [30, 3], [20, 2], [40, 1]]), LINE, [0.8, 1]),
        (np.array([[7.0, 4], [7, 3], [7, 2], [7, 1]]), LINE, [0, 1]),  # 0 of a constant
        (LINE, np.full((4, 2), 0.5), [0, 0]),
    ],
)
def test_spearman_by_hand(values, preferences, expected):
    assert spearman(values, preferences) == pytest.approx(expected)
