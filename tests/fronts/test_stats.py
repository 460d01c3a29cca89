"""Differences worked out on paper, and intervals against draws written out one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from safe_rlhf_panacea.fronts.compare import compare
from safe_rlhf_panacea.fronts.stats import (
    Resampled,
    Units,
    can_resample,
    front_difference,
    interval,
    multiplicities,
    resample,
)
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.show.pages import comparison_page
from safe_rlhf_panacea.show.tables import comparison_text
from tests.eval.evaluations import front, points, with_values

GRID = preference_grid(2, 0.5)
NAMES = [f"unit {i}" for i in range(40)]


def some_values(seed, count=40, half=False):
    """size = (3, count, 2); with ``half`` every unit counts for one objective only."""
    values = np.random.default_rng(seed).normal(size=(3, count, 2)) + 2
    if half:
        values[:, ::2, 0] = values[:, 1::2, 1] = np.nan
    return values


# -- the draws -----------------------------------------------------------------------------


def test_every_objective_keeps_as_many_units_as_it_has():
    counted = ~np.isnan(some_values(0, half=True)[0])
    counted[:10] = True  # a third kind, which counts for both
    times = multiplicities(counted, draws=50)
    assert times.shape == (50, 40) and (times == times.round()).all()
    for group in (slice(0, 10), slice(10, 40, 2), slice(11, 40, 2)):
        assert (times[:, group].sum(axis=1) == len(range(40)[group])).all()
    assert len(np.unique(times, axis=0)) == 50
    assert times.mean(axis=0) == pytest.approx(np.ones(40), abs=0.6)


def test_few_units_of_a_kind_are_drawn_with_the_others_if_there_are_enough():
    values = some_values(0)
    values[:, :3, 0] = np.nan  # three that count for the second objective only
    units = Units(NAMES, values)
    times = multiplicities(~np.isnan(values[0]), draws=50)
    assert len({tuple(row) for row in times[:, :3].tolist()}) > 10  # they vary too
    assert can_resample([units, units])
    few = Units(NAMES[:21], values[:, :21])  # 18 count for the first, drawn with the three others
    assert not can_resample([few, few])
    alike = Units(NAMES[:6], values[:, 10:16])
    assert can_resample([alike]) and not can_resample([Units(NAMES[:4], values[:, 10:14])])


@pytest.mark.parametrize("half", [False, True])
def test_draws_are_means_over_the_drawn_units_and_hypervolumes_those_of_the_draws(half):
    values = some_values(1, half=half)
    (found,) = resample([Units(NAMES, values)], [1.0, 1.0], draws=250)
    assert len(np.unique(found.values[:, 0, 0])) == 250  # blocks of draws are not the same
    times = multiplicities(~np.isnan(values[0]), draws=100)
    for d in range(7):
        drawn = [u for u in range(40) for _ in range(int(times[d, u]))]
        expected = np.nanmean(values[:, drawn], axis=1)
        np.testing.assert_allclose(found.values[d], expected, rtol=1e-12)
        inside = sorted(expected[(expected > 1).all(axis=1)].tolist(), reverse=True)
        volume, height = 0.0, 1.0
        for x, y in inside:  # from right to left, each strip above the last one's height
            volume += (x - 1) * max(0.0, y - height)
            height = max(height, y)
        assert found.hypervolumes[d] == pytest.approx(volume)


def test_interval_is_the_middle_95_percent():
    draws = np.random.default_rng(3).permutation(np.arange(1001.0))
    assert interval(draws) == pytest.approx(np.array([25, 975]))
    both = interval(np.stack([draws, -draws], axis=1))
    assert both == pytest.approx(np.array([[25, 975], [-975, -25]]))


def test_only_the_same_units_go_together():
    first = Units(NAMES, some_values(0))
    some = some_values(1)
    some[1, 3, 0] = np.nan  # a response for which a reward does not count, at one λ
    assert can_resample([first, Units(NAMES, some_values(1))])
    assert not can_resample([first, Units(NAMES[::-1], some_values(1))])
    assert not can_resample([first, Units(NAMES, some_values(1, half=True))])
    assert not can_resample([Units(NAMES, some)])
    assert not can_resample([first, None]) and not can_resample([None, first])


# -- in a comparison -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison():
    """Prompts that differ much, and a second run that is better by 0.1 on every one of them."""
    values = some_values(4)
    noise = np.random.default_rng(5).normal(scale=0.05, size=values.shape)
    return compare(
        [
            with_values(values, GRID, NAMES, "one"),
            with_values(values + 0.1 + noise, GRID, NAMES, "two"),
        ]
    )


def test_pairing_takes_out_what_the_units_share(comparison):
    numbers = json.loads(json.dumps(comparison.to_json()))
    assert numbers["bootstrap"] == {"draws": 2000, "level": 0.95}
    (difference,) = numbers["differences"]
    for row in difference["rows"]:
        low, high = np.array(row["interval"]).T
        assert (low < row["difference"]).all() and (row["difference"] < high).all()
        assert (high - low < 0.05).all()  # 4 · 0.05/√40 is 0.03; unpaired it would be near 0.9
        assert all(row["marked"])
    low, high = difference["mean_scalarised_interval"]
    assert 0.05 < low < difference["mean_scalarised"] < high < 0.15
    one, two = numbers["runs"]
    low, high = difference["hypervolume_ratio_interval"]
    assert low < two["hypervolume_over_baseline"] < high
    assert one["hypervolume_interval"][0] < one["hypervolume"] < one["hypervolume_interval"][1]
    ends = np.array(one["intervals"])
    values = np.array([point["objectives"] for point in one["front"]])
    assert (ends[..., 0] < values).all() and (values < ends[..., 1]).all()
    assert (np.ptp(ends, axis=-1) > 0.4).all()


def test_text_and_page_show_intervals(comparison):
    row = comparison.differences[0].rows[0]
    low, high = row.interval[0]
    cell = f"{row.difference[0]:+.3f} [{low:+.3f}, {high:+.3f}] *"
    for text in (comparison_text(comparison), comparison_page(comparison, b"", "command")):
        assert cell in text and "95 % interval" in text
        assert "2000 draws, with replacement, of the 40 prompts or pairs" in text
        assert "rough guide" not in text
    assert "6 of 6 with an interval without 0" in comparison_text(comparison)


def test_other_units_have_no_intervals():
    one = with_values(some_values(0), GRID, NAMES, "one")
    two = with_values(some_values(1), GRID, NAMES[::-1], "two")
    comparison = compare([one, two])
    assert comparison.bootstrap is None
    assert "rough guide" in comparison_text(comparison)


# -- families ------------------------------------------------------------------------------


def test_intervals_are_as_wide_as_the_families_and_not_the_units_allow():
    """Four phrasings that always agree are worth one: twice the standard error of 40 units."""
    topics = np.random.default_rng(0).normal(size=(10, 2))
    values = np.broadcast_to(np.repeat(topics, 4, axis=0), (3, 40, 2)) + 2
    families = [f"topic {unit // 4}" for unit in range(40)]
    apart, together = (Units(NAMES, values, clusters) for clusters in (None, families))
    wide = resample([together, together], [0, 0])[0].values.std(axis=0)
    narrow = resample([apart, apart], [0, 0])[0].values.std(axis=0)
    exact = topics.std(axis=0) / 10**0.5  # the bootstrap's own standard error of a mean
    np.testing.assert_allclose(wide, np.broadcast_to(exact, (3, 2)), rtol=0.07)
    np.testing.assert_allclose(wide / narrow, 2, rtol=0.1)
    assert not can_resample([apart, together])
    few = Units(NAMES, values, ["a"] * 20 + ["b"] * 20)
    assert can_resample([together, together]) and not can_resample([few, few])


# -- differences ---------------------------------------------------------------------------


OLD = front(
    1.0,
    label="old",
    points=points([[0, 1], [0.5, 0.5], [1, 0]], [[1, 3], [2, 2], [3, 1]], [0.3, 0.4]),
    reference_point=[0.0, 0.75],
)
# Another order, other λ between the ends, and other standard errors.
NEW = front(
    1.0,
    label="new",
    points=points([[1, 0], [0.25, 0.75], [0, 1]], [[4.1, 0.5], [2, 2], [1, 4]], [0.4, 0.3]),
    reference_point=[0.5, 0.0],
)


@pytest.mark.parametrize(
    ("given", "own", "point", "said", "volumes"),
    [
        # Rectangles from the origin: 1·3 + 1·2 + 1·1, and 1·4 + 1·2 + 2.1·0.5.
        (None, [0.5, 0.0], [0.0, 0.0], "common reference point", [6.0, 7.05]),
        # What is left to the right of J₁ = 1: 1·2 + 1·1, and 1·2 + 2.1·0.5.
        ([1.0, 0.0], [0.5, 0.0], [1.0, 0.0], "as given", [3.0, 3.05]),
        (None, [0.0, 0.75], [0.0, 0.75], "that of every run", [3.75, 4.5]),
        ([3.5, 0.0], [0.5, 0.0], [3.5, 0.0], "as given", [0.0, 0.3]),
    ],
)
def test_all_hypervolumes_are_measured_from_one_point(given, own, point, said, volumes):
    comparison = compare([OLD, NEW.having(reference_point=own)], reference_point=given)
    assert list(comparison.reference_point) == point
    assert said in comparison.reference_point_from
    found = [run.indicators["hypervolume"] for run in comparison.runs]
    assert found == pytest.approx(volumes)
    ratio = comparison.runs[1].hypervolume_over_baseline
    assert ratio == (pytest.approx(volumes[1] / volumes[0]) if volumes[0] else None)
    assert ("times that of" in comparison_text(comparison)) == bool(volumes[0])
    if given is not None:
        count = 3 if not volumes[0] else 1
        assert f"old: {count} of 3 points do not exceed the reference" in comparison.notes[0]


def test_differences_are_those_at_common_preferences():
    found = front_difference(NEW, OLD).model_dump(mode="json")
    assert found["mean_scalarised"] == pytest.approx(1.05)
    assert found["left_out"] == {"new": 1, "old": 1}
    first, second = found["rows"]  # in the baseline's order
    assert (first["preference"], first["difference"]) == ([0.0, 1.0], [0.0, 1.0])
    assert first["marked"] == [False, False]  # 1.0 is not more than 2 · 0.5; 1.1 is
    assert second == {
        "preference": [1.0, 0.0],
        "difference": [pytest.approx(1.1), -0.5],
        "standard_error": [0.5, 0.5],  # √(0.3² + 0.4²)
        "marked": [True, False],
        "scalarised": pytest.approx(1.1),
        "interval": None,
    }
    turned = compare([OLD, NEW], baseline="new")
    rows = turned.differences[0].rows
    assert [list(row.preference) for row in rows] == [[1, 0], [0, 1]]
    assert rows[0].difference == pytest.approx([-1.1, 0.5])


def test_intervals_are_of_the_same_preferences_in_both_fronts():
    # Draws that are all the same: every interval is the difference itself.
    drawn = [Resampled(np.stack([f.values] * 3), np.ones(3)) for f in (NEW, OLD)]
    found = front_difference(NEW, OLD, *drawn)
    for row in found.rows:
        np.testing.assert_allclose(row.interval, np.stack([row.difference] * 2, axis=-1))
    assert found.mean_scalarised_interval == pytest.approx([found.mean_scalarised] * 2)
    assert found.hypervolume_ratio_interval == (1.0, 1.0)


def test_the_text_has_all_of_it():
    text = comparison_text(compare([OLD, NEW]))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert "(0.00, 1.00) +0.000 ± 0.500 +1.000 ± 0.500 +1.000" in lines
    assert "(1.00, 0.00) +1.100 ± 0.500 * -0.500 ± 0.500 +1.100" in lines
    assert "mean ⟨λ, ΔJ⟩ +1.0500; 1 of 4 beyond 2 standard errors (*)" in text
    assert "hypervolume 1.175 times that of old" in text
    assert "left out, not in both: 1 λ of new and 1 λ of old" in text
    assert "(0, 0), the common reference point" in text
    apart = comparison_text(compare([OLD, NEW.having(points=NEW.points[1:2])]))
    assert "no λ in common" in apart
    assert "left out, not in both: 1 λ of new and 3 λ of old" in apart


@pytest.mark.parametrize(("apart", "common"), [(5e-7, 1), (5e-6, 0)])
def test_preferences_are_matched_but_for_rounding(apart, common):
    base, near = (OLD.having(points=points([[0.3 + x, 0.7 - x]], [[1, 2]])) for x in (0, apart))
    found = front_difference(near, base)
    assert len(found.rows) == common and list(found.left_out.values()) == [1 - common]
    assert (found.mean_scalarised is None) == (not common)
