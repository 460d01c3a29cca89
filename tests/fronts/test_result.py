"""The one type of a front: what it refuses, its files, and what Python users get of it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pydantic import ValidationError

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.compare import FrontComparison
from safe_rlhf_panacea.fronts.measurement import grid_points
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.fronts.stats import Units, unit_name
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.preference import preference_grid
from tests.eval.evaluations import front, with_values, write_evaluation

GRID = preference_grid(2, 0.5)
NAMES = ("a", "b", "c", "d")
VALUES = np.random.default_rng(0).normal(size=(3, 4, 2)).round(6)
VALUES[:, 3, 0] = np.nan


@pytest.fixture
def measured():
    return with_values(VALUES, GRID, NAMES, clusters=["x", "x", "y", "y"])


def test_arrays_and_indicators(measured):
    assert measured.values.dtype == measured.errors.dtype == np.float64
    assert measured.preferences.tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert measured.errors.tolist() == [[0.1, 0.1]] * 3
    # J = λ: rectangles of 1/2 · 1/2 from the origin; ⟨λ, J⟩ is 1, 1/2 and 1.
    found = front(1.0).indicators
    assert (found["hypervolume"], found["dominated"]) == (pytest.approx(0.25), 0)
    assert found["inner_product"] == pytest.approx(2.5 / 3)
    lower = front(1.0).measured_from([-1, -1])
    assert lower.indicators["hypervolume"] == pytest.approx(1 * 2 + 0.5 * 1.5 + 0.5 * 1)
    some = measured.at(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert some.values.tolist() == measured.values[[2, 0]].tolist() and some.units is None
    tenths = torch.tensor([[i, -i] for i in range(11)])
    fine = front(1.0, points=grid_points(preference_grid(2, 0.1), tenths, tenths.abs()))
    chosen = fine.at(GRID).measured_from([0.0, -20.0])
    assert chosen.values[:, 0].tolist() == [0, 5, 10]
    assert chosen.indicators["hypervolume"] == 5 * 15 + 5 * 10  # of (5, -5) and (10, -10)


def test_nothing_can_be_changed(measured):
    with pytest.raises(ValidationError, match="frozen"):
        measured.points[0].kl = 1.0
    with pytest.raises(ValidationError, match="finite"):
        measured.having(reference_point=[0.0, float("nan")])
    with pytest.raises(ValidationError, match=r"size \(2, 4, 2\)"):
        measured.having(units=Units(NAMES, VALUES[:2]))
    with pytest.raises(ValueError, match="read-only"):
        measured.values[0, 0] = 1.0
    assert measured.having(label="x").label == "x"


def test_saved_and_loaded_and_saved_alike(tmp_path, measured):
    measured.save(tmp_path / "a")
    again = FrontResult.load(tmp_path / "a")
    assert again.having(units=None) == measured.having(units=None)
    np.testing.assert_array_equal(again.units.values, VALUES)
    assert (again.units.names, again.units.clusters) == (list(NAMES), ["x", "x", "y", "y"])
    again.save(tmp_path / "b")
    for name in ("front.json", "values.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert FrontResult.load(tmp_path / "a" / "front.json").units is None
    with pytest.raises(UserError, match=r"front\.json exists"):
        front(2.0).save(tmp_path / "a")
    front(2.0).save(tmp_path / "a", overwrite=True)  # the old unit values are gone
    assert FrontResult.load(tmp_path / "a") == front(2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"units": ["a", "b"]}, r"values\[0\] must have 2 entries, not 4"),
        ({"preferences": [[0, 1], [1, 0]]}, "preferences must have 3 entries, not 2"),
        ({"preferences": [[1, 0], [0.5, 0.5], [0, 1]]}, "evaluate anew"),
        ({"values": (VALUES + 1e-4).tolist()}, "the means of the unit values"),
        ({"values": [[["1", 2]] * 4] * 3}, "must be a number or null"),
        ({"values": None}, "values must be a list"),
        ({"clusters": ["x"]}, "clusters must have 4 entries, not 1"),
    ],
)
def test_unit_values_of_another_front_are_refused(tmp_path, measured, change, said):
    measured.save(tmp_path)
    file = tmp_path / "values.json"
    file.write_text(json.dumps({**read_json(file), **change}).replace("NaN", "null"))
    with pytest.raises(UserError, match=said) as caught:
        FrontResult.load(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")


def test_units_are_named_by_their_texts():
    assert unit_name("a", "b") == unit_name("a", "b") != unit_name("ab", "")
    assert unit_name([1, 2], [3]) != unit_name([1], [2, 3])


POINT = {
    "preference": [0.0, 1.0],
    "objectives": [0.0, 1.0],
    "standard_errors": [0.1, 0.1],
    "kl": None,
    "kl_error": None,
}
ONE = {"points": [{"preference": [1.0], "objectives": [2.0], "standard_errors": [0.1]}]}
TWO = "point 1 of the front: {} must be 2 finite numbers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "not a result of this version"),
        ({"method": ["panacea"]}, "method: "),
        ({"step": "24"}, "step: "),
        ({"objectives": []}, "objectives: "),
        ({"objectives": ["helpful", "helpful"]}, "objectives must be different names"),
        ({"axis_labels": ["x"]}, "axis_labels must be 2 texts"),
        ({"reference_point": [0.0]}, "reference_point must be 2 finite numbers"),
        ({"reference_point": [0.0, True]}, "reference_point.1: "),
        ({"front": []}, "front: "),
        ({"front": [{**POINT, "objectives": [1.0]}]}, TWO.format("objectives")),
        ({"front": [POINT, {"preference": [1, 0]}]}, "front.1.objectives: "),
        ({"front": [{**POINT, "kl": 0.5}]}, "kl and kl_error must be numbers, or null"),
        ({"front": [POINT, POINT]}, "has λ [0.0, 1.0] twice"),
        ({"base": {"objectives": [1.0], "standard_errors": [1.0]}}, "base: objectives must be 2"),
    ],
)
def test_fronts_of_another_shape_are_refused(tmp_path, changes, message):
    folder = write_evaluation(tmp_path / "a", 1.0, **changes)
    with pytest.raises(UserError) as caught:
        FrontResult.load(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder}/front.json: ") and message in text and "\n" not in text


def test_committed_comparisons_are_read():
    comparison = FrontComparison.load("eval/fronts/rules.json")
    written = comparison.to_json()
    for old, new in zip(read_json("eval/fronts/rules.json")["runs"], written["runs"], strict=True):
        assert old["front"] == new["front"] and old["intervals"] == new["intervals"]
        assert new["hypervolume"] == pytest.approx(old["hypervolume"], rel=1e-12)
    assert written["differences"] == read_json("eval/fronts/rules.json")["differences"]
    assert FrontComparison.model_validate(written) == comparison


def test_a_single_objective_has_a_front_of_one_point(tmp_path):
    alone = front(2.0, objectives=["helpful"], axis_labels=[], reference_point=[0.0], **ONE)
    alone.save(tmp_path)
    assert FrontResult.load(tmp_path) == alone
    assert alone.indicators["hypervolume"] == 2.0
    assert alone.plot().get_suptitle() == "One adapter, any λ: helpful"


def test_pandas_and_pictures(tmp_path, measured, monkeypatch):
    pytest.importorskip("pandas")
    table = measured.to_pandas()
    assert table.columns.tolist()[:4] == ["λ helpful", "λ harmless", "helpful", "harmless"]
    assert table["± harmless"].tolist() == [0.1] * 3 and len(table) == 3
    assert isinstance(measured.plot(), Figure)
    base = {"objectives": [0.0, 0.0], "standard_errors": [0.1, 0.1]}
    figure = measured.having(base=base).plot()
    assert figure.get_suptitle().endswith("helpful against harmless")
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["front", "initial model"]
    assert measured.plot(tmp_path / "f.png", front(2.0)).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pandas is not installed"):
        measured.to_pandas()
