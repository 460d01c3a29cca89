"""Two fronts whose hypervolumes and differences were worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from safe_rlhf_panacea.fronts.bootstrap import Resampled
from safe_rlhf_panacea.fronts.comparison import compare
from safe_rlhf_panacea.fronts.differences import front_difference, with_intervals
from safe_rlhf_panacea.fronts.front import Front, FrontPoint
from safe_rlhf_panacea.fronts.run_locations import parse_run
from safe_rlhf_panacea.fronts.runs import read_run
from safe_rlhf_panacea.show.comparison_tables import comparison_text
from tests.eval.evaluations import write_evaluation

NAMES = ["helpful", "harmless"]


def points(errors, *rows):
    return [vars(FrontPoint(*row, errors)) for row in rows]


OLD = points([0.3, 0.4], ([0, 1], [1, 3]), ([0.5, 0.5], [2, 2]), ([1, 0], [3, 1]))
# Another order, other λ between the ends, and other standard errors.
NEW = points([0.4, 0.3], ([1, 0], [4.1, 0.5]), ([0.25, 0.75], [2, 2]), ([0, 1], [1, 4]))


@pytest.fixture
def runs(tmp_path):
    write_evaluation(tmp_path / "old", 1.0, front=OLD, reference_point=[0.0, 0.75])
    write_evaluation(tmp_path / "new", 1.0, front=NEW, reference_point=[0.5, 0.0])
    return [run for name in ("old", "new") for run in read_run(parse_run(str(tmp_path / name)))]


def test_hypervolumes_are_measured_from_the_lowest_reference_point(runs):
    comparison = compare(runs)
    assert comparison.reference_point == [0.0, 0.0]
    assert "common reference point" in comparison.reference_from
    # Rectangles from the origin: 1·3 + 1·2 + 1·1, and 1·4 + 1·2 + 2.1·0.5.
    volumes = {label: s["hypervolume"] for label, s in comparison.summaries.items()}
    assert volumes == pytest.approx({"old": 6.0, "new": 7.05})
    assert comparison.hypervolume_ratio("new") == pytest.approx(1.175)


def test_intervals_are_of_the_same_preferences_in_both_fronts(runs):
    old, new = (run.front for run in runs)
    difference = front_difference(new, old)
    # Draws that are all the same: every interval is the difference itself.
    drawn = [Resampled(np.stack([f.values] * 3), np.ones(3)) for f in (new, old)]
    found = with_intervals(difference, *drawn).intervals
    assert difference.values.tolist() == [[0.0, 1.0], [pytest.approx(1.1), -0.5]]
    np.testing.assert_allclose(found.values, np.stack([difference.values] * 2, axis=-1))
    assert found.gain == pytest.approx([difference.scalarised.mean()] * 2)


def test_a_given_reference_point_is_taken(runs):
    comparison = compare(runs, reference_point=[1.0, 0.0])
    # What is left to the right of J₁ = 1: 1·2 + 1·1, and 1·2 + 2.1·0.5.
    volumes = [summary["hypervolume"] for summary in comparison.summaries.values()]
    assert volumes == pytest.approx([3.0, 3.05])
    assert "old: 1 of 3 points do not exceed the reference point" in comparison.notes[0]


def test_a_reference_point_that_all_share_is_kept(runs):
    runs[1].result["reference_point"] = [0.0, 0.75]
    comparison = compare(runs)
    assert comparison.reference_point == [0.0, 0.75]
    assert comparison.reference_from == "that of every run"


def test_without_a_baseline_volume_there_is_no_ratio(runs):
    comparison = compare(runs, reference_point=[3.5, 0.0])
    assert comparison.summaries["old"]["hypervolume"] == 0
    assert comparison.hypervolume_ratio("new") is None
    assert "times that of" not in comparison_text(comparison)


def test_differences_are_those_at_common_preferences(runs):
    (difference,) = compare(runs).differences
    assert (difference.label, difference.baseline) == ("new", "old")
    assert difference.preferences.tolist() == [[0, 1], [1, 0]]
    assert difference.values.tolist() == [[0.0, 1.0], [pytest.approx(1.1), -0.5]]
    assert difference.errors.ravel() == pytest.approx([0.5] * 4)  # √(0.3² + 0.4²)
    # 1.0 is not more than 2 · 0.5; 1.1 is.
    assert difference.beyond.tolist() == [[False, False], [True, False]]
    assert difference.scalarised == pytest.approx([1.0, 1.1])
    values = difference.to_dict()
    assert values["mean_scalarised"] == pytest.approx(1.05)
    assert values["left_out"] == {"new": 1, "old": 1}
    assert values["rows"][1] == {
        "preference": [1.0, 0.0],
        "difference": [pytest.approx(1.1), -0.5],
        "standard_error": [0.5, 0.5],
        "marked": [True, False],
        "scalarised": pytest.approx(1.1),
    }


def test_the_text_has_all_of_it(runs):
    text = comparison_text(compare(runs))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert "(0.00, 1.00) +0.000 ± 0.500 +1.000 ± 0.500 +1.000" in lines
    assert "(1.00, 0.00) +1.100 ± 0.500 * -0.500 ± 0.500 +1.100" in lines
    assert "mean ⟨λ, ΔJ⟩ +1.0500; 1 of 4 beyond 2 standard errors (*)" in text
    assert "hypervolume 1.175 times that of old" in text
    assert "left out, not in both: 1 λ of new and 1 λ of old" in text
    assert "(0, 0), the common reference point" in text


def test_another_baseline_turns_the_sign(runs):
    comparison = compare(runs, baseline="new")
    (difference,) = comparison.differences
    assert difference.label == "old"
    assert difference.preferences.tolist() == [[1, 0], [0, 1]]  # the baseline's order
    assert difference.values[0] == pytest.approx([-1.1, 0.5])
    assert comparison.hypervolume_ratio("old") == pytest.approx(6 / 7.05)


def test_preferences_are_matched_but_for_rounding():
    def front(preference):
        return Front(NAMES, [FrontPoint(preference, [1.0, 2.0], [0.0, 0.0])], "A")

    base = front([0.3, 0.7])
    assert len(front_difference(front([0.3 + 5e-7, 0.7 - 5e-7]), base).values) == 1
    apart = front_difference(front([0.3 + 5e-6, 0.7 - 5e-6]), base)
    assert (len(apart.values), apart.only_front, apart.only_baseline) == (0, 1, 1)
    assert apart.to_dict()["mean_scalarised"] is None


def test_nothing_in_common_is_said(runs):
    runs[1].front.points = runs[1].front.points[1:2]
    text = comparison_text(compare(runs))
    assert "no λ in common" in text
    assert "left out, not in both: 1 λ of new and 3 λ of old" in text


def test_three_objectives(tmp_path):
    write_evaluation(tmp_path / "a", 1.0, m=3)
    write_evaluation(tmp_path / "b", 2.0, m=3)
    runs = [run for name in "ab" for run in read_run(parse_run(str(tmp_path / name)))]
    comparison = compare(runs, reference_point=[-1.0, -1.0, -1.0])
    (difference,) = comparison.differences
    assert difference.values.shape == (6, 3)
    assert difference.values == pytest.approx(difference.preferences)  # radius 2 minus radius 1
    assert difference.scalarised == pytest.approx((difference.preferences**2).sum(-1))
