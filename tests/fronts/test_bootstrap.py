"""Intervals of fronts and of their differences, against draws written out one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.bootstrap import (
    can_resample,
    interval,
    multiplicities,
    resample,
    resampled_front,
    same_units,
)
from safe_rlhf_panacea.fronts.comparison import compare
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.reward_front import Sampled
from safe_rlhf_panacea.fronts.run_locations import parse_run
from safe_rlhf_panacea.fronts.runs import read_run
from safe_rlhf_panacea.fronts.units import Units, read_units, unit_name, write_units
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.show.compare_page import comparison_page
from safe_rlhf_panacea.show.comparison_tables import comparison_text
from tests.fronts.runs import write_with_values

GRID = preference_grid(2, 0.5)
NAMES = [f"unit {i}" for i in range(40)]


def some_values(seed, count=40, half=False):
    """size = (3, count, 2); with ``half`` every unit counts for one objective only."""
    values = np.random.default_rng(seed).normal(size=(3, count, 2)) + 2
    if half:
        values[:, ::2, 0] = values[:, 1::2, 1] = np.nan
    return values


def write_run(folder, values, names=NAMES):
    return read_run(parse_run(write_with_values(folder, values, GRID, names)))[0]


# -- the file ------------------------------------------------------------------------------


def test_values_are_written_read_and_written_alike(tmp_path):
    values = some_values(0, half=True)
    run = write_run(tmp_path / "a", values)
    np.testing.assert_allclose(run.units.values, values, atol=1e-6)
    assert run.units.names == NAMES
    (tmp_path / "b").mkdir()
    write_units(tmp_path / "b", run.units.names, GRID, torch.tensor(run.units.values))
    files = [tmp_path / name / "values.json" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_units_are_named_by_their_texts():
    assert unit_name("a", "b") == unit_name("a", "b") != unit_name("ab", "")
    assert unit_name([1, 2], [3]) != unit_name([1], [2, 3])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"units": NAMES[:-1]}, "must have 39 entries, not 40"),
        ({"preferences": [[0, 1], [1, 0]]}, "preferences must have 3 entries, not 2"),
        ({"preferences": [[1, 0], [0.5, 0.5], [0, 1]]}, "not the values of the front"),
        (
            {"values": some_values(1).tolist()},
            "not the values of the front",
        ),
        ({"values": [[["1", 2]] * 40] * 3}, "must be a number or null"),
        ({"values": None}, "values must be a list"),
    ],
)
def test_damaged_values_are_refused_in_one_line(tmp_path, change, said):
    run = write_run(tmp_path, some_values(0))
    file = tmp_path / "values.json"
    file.write_text(json.dumps({**read_json(file), **change}))
    with pytest.raises(UserError, match=said) as caught:
        read_units(tmp_path, run.front)
    assert str(caught.value).startswith(f"{file}: ")


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


def test_draws_in_blocks_differ_from_block_to_block():
    units = Units(NAMES, some_values(1))
    (found,) = resample([units, units][:1], [0.0, 0.0], draws=250)
    assert found.values.shape == (250, 3, 2) and len(np.unique(found.values[:, 0, 0])) == 250
    (again,) = resample([units], [0.0, 0.0], draws=250)
    assert np.array_equal(found.values, again.values)


@pytest.mark.parametrize("half", [False, True])
def test_draws_are_means_over_the_drawn_units(half):
    units = Units(NAMES, some_values(1, half=half))
    times = multiplicities(~np.isnan(units.values[0]), draws=7)
    found = resampled_front(units, times)
    for d in range(7):
        drawn = [u for u in range(40) for _ in range(int(times[d, u]))]
        expected = np.nanmean(units.values[:, drawn], axis=1)
        np.testing.assert_allclose(found[d], expected, rtol=1e-12)


def test_interval_is_the_middle_95_percent():
    draws = np.random.default_rng(3).permutation(np.arange(1001.0))
    assert interval(draws) == pytest.approx(np.array([25, 975]))
    both = interval(np.stack([draws, -draws], axis=1))
    assert both == pytest.approx(np.array([[25, 975], [-975, -25]]))


def test_hypervolumes_are_those_of_the_draws():
    (found,) = resample([Units(NAMES, some_values(2))], [1.0, 1.0], draws=5)
    for values, volume in zip(found.values, found.hypervolumes, strict=True):
        inside = sorted(values[(values > 1).all(axis=1)].tolist(), reverse=True)
        expected, height = 0.0, 1.0
        for x, y in inside:  # from right to left, each strip above the last one's height
            expected += (x - 1) * max(0.0, y - height)
            height = max(height, y)
        assert volume == pytest.approx(expected)


def test_only_the_same_units_go_together():
    first = Units(NAMES, some_values(0))
    assert same_units([first, Units(NAMES, some_values(1))])
    assert not same_units([first, Units(NAMES[::-1], some_values(1))])
    assert not same_units([first, Units(NAMES, some_values(1, half=True))])
    some = some_values(1)
    some[1, 3, 0] = np.nan  # a response for which a reward does not count, at one λ
    assert not same_units([Units(NAMES, some)]) and not can_resample([Units(NAMES, some)])
    assert not same_units([first, None]) and not same_units([None, first])


# -- in a comparison -------------------------------------------------------------------------


@pytest.fixture
def comparison(tmp_path):
    """Prompts that differ much, and a second run that is better by 0.1 on every one of them."""
    values = some_values(4)
    noise = np.random.default_rng(5).normal(scale=0.05, size=values.shape)
    runs = [write_run(tmp_path / "one", values), write_run(tmp_path / "two", values + 0.1 + noise)]
    return compare(runs)


def test_pairing_takes_out_what_the_units_share(comparison):
    (difference,) = comparison.differences
    low, high = np.moveaxis(difference.intervals.values, -1, 0)
    assert (low < difference.values).all() and (difference.values < high).all()
    assert (high - low < 0.05).all()  # 4 · 0.05/√40 is 0.03; unpaired it would be near 0.9
    assert difference.beyond.all()
    one = comparison.resampled["one"].values
    assert (np.ptp(interval(one), axis=-1) > 0.4).all()


def test_numbers_of_the_comparison(comparison):
    numbers = json.loads(json.dumps(comparison.to_dict()))
    assert numbers["bootstrap"] == {"draws": 2000, "level": 0.95}
    (difference,) = numbers["differences"]
    low, high = difference["hypervolume_ratio_interval"]
    assert low < numbers["runs"][1]["hypervolume_over_baseline"] < high
    low, high = difference["mean_scalarised_interval"]
    assert 0.05 < low < difference["mean_scalarised"] < high < 0.15
    one = numbers["runs"][0]
    assert one["hypervolume_interval"][0] < one["hypervolume"] < one["hypervolume_interval"][1]
    for point, ends in zip(one["front"], one["intervals"], strict=True):
        for value, (low, high) in zip(point["objectives"], ends, strict=True):
            assert low < value < high


def test_text_and_page_show_intervals(comparison):
    (difference,) = comparison.differences
    low, high = difference.intervals.values[0, 0]
    cell = f"{difference.values[0, 0]:+.3f} [{low:+.3f}, {high:+.3f}] *"
    for text in (comparison_text(comparison), comparison_page(comparison, b"", "command")):
        assert cell in text and "95 % interval" in text
        assert "2000 draws, with replacement, of the 40 prompts or pairs" in text
        assert "rough guide" not in text
    assert "6 of 6 with an interval without 0" in comparison_text(comparison)


def test_other_units_have_no_intervals(tmp_path):
    runs = [write_run(tmp_path / "one", some_values(0))]
    runs.append(write_run(tmp_path / "two", some_values(1), names=NAMES[::-1]))
    comparison = compare(runs)
    assert comparison.to_dict()["bootstrap"] is None
    assert "rough guide" in comparison_text(comparison)


def test_a_measurement_gives_what_its_front_is_the_mean_of():
    margins = torch.tensor([[1.0, -2.0, 0.0], [3.0, 1.0, 1.0]]).double()
    labels = torch.tensor([[1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]).double()
    nothing = Sampled([[], []], torch.zeros(2, 0, 2), torch.zeros(2, 1).double())
    measured = Measurement(GRID[:2], [], nothing, margins=margins, labels=labels)
    values = measured.unit_values()
    nan = float("nan")
    expected = [[[1, 0], [0, nan], [nan, 0.5]], [[1, 0], [1, nan], [nan, 1]]]
    np.testing.assert_array_equal(values.numpy(), np.array(expected))
    front = measured.front(["helpful", "harmless"])
    np.testing.assert_allclose(np.nanmean(values, axis=1), front.values)


# -- families ------------------------------------------------------------------------------


def test_families_are_drawn_as_a_whole():
    families = [f"topic {unit // 4}" for unit in range(40)]
    times = multiplicities(np.ones((40, 2), dtype=bool), draws=200, clusters=families)
    assert (times.reshape(200, 10, 4) == times.reshape(200, 10, 4)[:, :, :1]).all()
    assert (times.sum(axis=1) == 40).all()
    assert len(np.unique(times[:, ::4], axis=0)) > 190


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
    assert not same_units([apart, together])
    few = Units(NAMES, values, ["a"] * 20 + ["b"] * 20)
    assert can_resample([together, together]) and not can_resample([few, few])


def test_families_are_written_read_and_refused_where_they_do_not_fit(tmp_path):
    run = write_run(tmp_path, some_values(0))
    families = [f"topic {unit // 4}" for unit in range(40)]
    write_units(tmp_path, NAMES, GRID, torch.tensor(run.units.values), families)
    assert read_units(tmp_path, run.front).clusters == families
    file = tmp_path / "values.json"
    file.write_text(json.dumps({**read_json(file), "clusters": families[:-1]}))
    with pytest.raises(UserError, match="clusters must have 40 entries, not 39"):
        read_units(tmp_path, run.front)
