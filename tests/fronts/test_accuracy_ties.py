"""Accuracy of implicit rewards, by hand."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.fronts.accuracy_front import accuracy_front


def test_ties_count_half_and_missing_labels_nothing():
    margins = torch.tensor([[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]).double()
    labels = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 0.0]]).double()
    front = accuracy_front(margins, labels, torch.tensor([[1.0, 0.0], [0.5, 0.5]]), ("a", "b"))
    # First λ: for a right, wrong and a tie of three; for b wrong and wrong of two.
    assert front.points[0].objectives == pytest.approx([1.5 / 3, 0.0])
    # Variance of 1, 0, 1/2: 1.25 / 3 - 1 / 4 = 1 / 6.
    assert front.points[1].objectives == [0.5, 0.5]
    assert front.points[1].standard_errors == [0.0, 0.0]
    assert front.points[0].standard_errors == pytest.approx([(0.5 / 9) ** 0.5, 0.0])
    assert front.metadata == {"labelled_pairs": [3, 2]}
