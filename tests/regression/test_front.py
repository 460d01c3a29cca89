"""Bands by hand, a λ that fell out, and the suite from start to end on a few steps."""

from __future__ import annotations

import json
import math

import pytest

from safe_rlhf_panacea.experiments.settings import SMOKE
from safe_rlhf_panacea.fronts.result import FrontPoint, FrontResult
from safe_rlhf_panacea.regression import front, references
from safe_rlhf_panacea.regression.bands import joint_bands, prediction_band
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.small_fronts import front_numbers
from safe_rlhf_panacea.regression.suites import Options


def test_a_prediction_band_by_hand():
    band = prediction_band([1, 2, 3, 4, 5], alpha=0.05)
    # t of 4 degrees of freedom at 97.5 %: 2.776; s = √2.5; √(1 + 1/5)
    assert band.mean == 3
    assert band.std == pytest.approx(2.5**0.5)
    assert band.half_width == pytest.approx(2.776 * 1.58114 * 1.09545, rel=2e-4)
    assert prediction_band([1, 2, 3, 4, 5], alpha=0.05, floor=6).half_width == 6


def test_joint_bands_share_the_false_alarms_and_have_floors():
    found = joint_bands({"dominated": [2, 2, 2], "J": [0, 0, 3]}, checks=5, floors={"dom": 1.0})
    assert found["dominated"].half_width == 1.0
    # t of 2 degrees of freedom at 1 - 0.05 / 5 / 2 = 99.5 %: 9.925; s = √3; √(1 + 1/3)
    assert found["J"].half_width == pytest.approx(9.925 * 1.73205 * 1.15470, rel=1e-4)


def test_numbers_of_a_front_by_hand():
    grid = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    values = [[0.25, 0.75], [0.5, 0.5], [0.75, 0.5]]
    points = [
        FrontPoint(preference=p, objectives=j, standard_errors=[0, 0])
        for p, j in zip(grid, values, strict=True)
    ]
    names = {"objectives": ["helpful", "harmless"], "reference_point": [0, 0]}
    numbers = front_numbers(FrontResult(kind="accuracy", points=points, **names), "dpo")
    assert numbers["extent of helpful"] == 0.5
    assert numbers["extent of harmless"] == 0.25
    assert numbers["dominated"] == 1  # (0.5, 0.5), by (0.75, 0.5)
    assert numbers["hypervolume"] == pytest.approx(0.5 * 0.25)  # of (0.75, 0.5) over (1/4, 1/4)
    assert numbers["J_harmless at λ = (0, 1)"] == 0.75
    assert len(numbers) == 3 + 2 + 2 + 6


def reference(**tolerances):
    means = {"hypervolume": 4.0, "J_helpful at λ = (0.3, 0.7)": 0.5}
    return {
        "name": "ppo",
        "values": {"mean": means},
        "tolerances": {**dict.fromkeys(means, 0.25), **tolerances},
    }


def test_a_lambda_that_fell_out_is_named_with_its_distance():
    checks = front.compare(reference(), {"hypervolume": 4.2, "J_helpful at λ = (0.3, 0.7)": -0.125})
    (bad,) = (check for check in checks if not check.same)
    assert (bad.reference, bad.what) == ("front/ppo", "J_helpful at λ = (0.3, 0.7)")
    assert (bad.difference, bad.tolerance) == (-0.625, 0.25)


def test_numbers_that_are_missing_are_named():
    with pytest.raises(CannotRun, match=r"J_helpful at λ = \(0.3, 0.7\)"):
        front.compare(reference(), {"hypervolume": 4.2})


def made_up(start):
    """The numbers of two fronts on SMOKE's grid."""
    grid = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    points = [
        FrontPoint(preference=p, objectives=[start + v for v in p], standard_errors=[0, 0])
        for p in grid
    ]
    names = {"objectives": ["helpful", "harmless"], "reference_point": [0, 0]}
    whole = FrontResult(kind="reward", points=points, **names)
    return {name: front_numbers(whole, name) for name in front.ALGORITHMS}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "git_state", lambda: {"commit": "0", "modified": False})
    monkeypatch.setattr(front, "SETTINGS", SMOKE)
    monkeypatch.setattr(front, "SEEDS", (1, 2))
    monkeypatch.setattr(front, "_measure_seeds", lambda _: [made_up(0.25), made_up(0.5)])
    front.record(Options(tmp_path / "references", tmp_path / "work", progress=False))
    return tmp_path / "references"


def test_a_recording_holds_means_bands_and_how_they_came_about(recorded):
    record = json.loads((recorded / "front" / "ppo.json").read_text(encoding="utf-8"))
    values = record["values"]
    assert values["settings"]["sft_steps"] == SMOKE.sft_steps
    assert values["measured"]["J_helpful at λ = (0, 1)"] == [0.25, 0.5]
    assert values["mean"]["J_helpful at λ = (0, 1)"] == 0.375
    # 26 numbers in both files; t of one degree of freedom at 1 - x is about 1 / (π x)
    expected = 26 / 0.025 / math.pi * 0.125 * 2**0.5 * 1.5**0.5
    assert record["tolerances"]["J_helpful at λ = (0, 1)"] == pytest.approx(expected, rel=1e-3)
    assert record["tolerances"]["dominated"] == 1
    assert "n = 2 seeds" in record["reason"] and "5 % / 26" in record["reason"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_run_trains_on_the_seed_left_out_and_compares_everything(recorded, tmp_path):
    checks = front.run(Options(recorded, tmp_path, progress=False))
    assert {check.reference for check in checks} == {"front/ppo", "front/dpo"}
    assert len(checks) == 2 * (3 + 2 + 2 + 6)
    assert (tmp_path / "seed-200" / "panacea-ppo" / "adapter_model.safetensors").exists()
    # Two steps make no front: the extents of 1 that were recorded, with no spread, are missed.
    fallen_out = {check.what for check in checks if not check.same}
    assert {"extent of helpful", "extent of harmless"} <= fallen_out


def test_run_wants_two_references_of_one_recording_and_a_fresh_seed(recorded, tmp_path):
    with pytest.raises(CannotRun, match="no reference"):
        front.run(Options(tmp_path / "nowhere", tmp_path))
    folder = tmp_path / "front"
    folder.mkdir()
    records = {
        name: json.loads((recorded / "front" / f"{name}.json").read_text(encoding="utf-8"))
        for name in front.ALGORITHMS
    }

    def run_with(change, match):
        change(records["dpo"]["values"])
        for name, record in records.items():
            (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(CannotRun, match=match):
            front.run(Options(tmp_path, tmp_path))

    run_with(lambda values: values.update(run_seed=7), "not recorded together")
    run_with(lambda values: values.update(run_seed=2), "seed 2 is among the recorded ones")
    run_with(lambda values: values["settings"].update(odd=1), "other settings")
