"""Several seeds' evaluations as one: means prompt by prompt, and what does not go together."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from safe_rlhf_panacea.evaluation.compare import main as compare
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.preference import preference_grid
from tests.fronts.runs import write_with_values

GRID = preference_grid(2, 0.5)
NAMES = [f"unit {i}" for i in range(30)]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "eval"))
    yield importlib.import_module("pool_seeds").main
    sys.modules.pop("pool_seeds")


def some_values(seed):
    values = np.random.default_rng(seed).normal(size=(3, 30, 2)).round(4)
    values[:, :6, 1] = np.nan  # the first prompts do not count for the second objective
    return values


@pytest.fixture
def seeds(tmp_path):
    """Three seeds, with other reference points, costs and initial models."""
    folders = []
    for seed in range(3):
        base = {"objectives": [0.1 * seed, 0.0], "standard_errors": [0.1, 0.3]}
        cost = {"training_seconds": 10.0 * seed, "stored_parameters": 7, "trained_models": 1}
        changes = {"base": base, "cost": cost, "reference_point": [-3.0 - seed, -4.0 + seed]}
        changes |= {"label": "Panacea", "metadata": {"prompts": 30}}
        folder = tmp_path / f"seed-{seed}"
        folders.append(write_with_values(folder, some_values(seed), GRID, NAMES, **changes))
    return folders


def test_every_prompt_s_mean_over_the_seeds(main, seeds, tmp_path, capsys):
    out = tmp_path / "pooled"
    main(["--runs", *seeds, "--output_dir", str(out)])
    assert "The means of 3 seeds" in capsys.readouterr().out
    result, expected = read_json(out / "front.json"), sum(map(some_values, range(3))) / 3
    for n, point in enumerate(result["front"]):
        for i in range(2):
            counted = [v for v in expected[n, :, i] if v == v]
            mean = sum(counted) / len(counted)
            assert point["objectives"][i] == pytest.approx(mean)
            variance = sum((v - mean) ** 2 for v in counted) / (len(counted) - 1)
            assert point["standard_errors"][i] == pytest.approx((variance / len(counted)) ** 0.5)
        assert point["kl"] == pytest.approx(0.2)
        assert point["kl_error"] == pytest.approx(0.01)  # the prompts are the same
    assert result["reference_point"] == [-5.0, -4.0]
    assert result["cost"]["training_seconds"] == 10.0
    assert result["base"]["objectives"] == pytest.approx([0.1, 0.0])
    assert result["metadata"] == {"prompts": 30, "seeds": 3}
    values = read_json(out / "values.json")
    assert values["units"] == NAMES and values["values"][0][0][1] is None


def test_evaluations_with_other_flags_do_not_go_together(main, seeds, tmp_path, capsys):
    for n, folder in enumerate(seeds):
        args = {"temperature": 1.0 if n < 2 else 0.5, "seed": n, "label": "x"}
        atomic_write_json(Path(folder) / "run.json", {"args": args})
    main(["--runs", *seeds[:2], "--output_dir", str(tmp_path / "two")])
    record = read_json(tmp_path / "two" / "run.json")["args"]
    assert record["temperature"] == 1.0 and "seed" not in record
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--runs", *seeds, "--output_dir", str(tmp_path / "three")])
    assert "differ in --temperature (see run.json)" in capsys.readouterr().err


def test_what_it_writes_can_be_compared_and_replaced_when_asked(main, seeds, tmp_path, capsys):
    for name, runs in (("all", seeds), ("two", seeds[:2])):
        main(["--runs", *runs, "--output_dir", str(tmp_path / name)])
    compare([f"all={tmp_path / 'all'}", f"two={tmp_path / 'two'}"])
    assert "95 % interval" in capsys.readouterr().out
    again = ["--runs", *seeds, "--output_dir", str(tmp_path / "all")]
    with pytest.raises(SystemExit):
        main(again)
    assert "already holds a run" in capsys.readouterr().err
    main([*again, "--overwrite"])


@pytest.mark.parametrize(
    ("names", "grid", "changes", "said"),
    [
        (NAMES[::-1], GRID, {}, "are of different prompts or pairs"),
        (NAMES, GRID.flip(0), {}, "were evaluated at different λ"),
        (NAMES, GRID, {"kind": "accuracy"}, "differ in their kind"),
        (NAMES, GRID, {"method": "rewarded_soups"}, "differ in their method"),
        (NAMES, GRID, {"aggregation": "tche"}, "differ in their aggregation"),
    ],
)
def test_what_does_not_go_together(main, seeds, tmp_path, capsys, names, grid, changes, said):
    other = write_with_values(tmp_path / "other", some_values(5), grid, names, **changes)
    with pytest.raises(SystemExit) as stop:
        main(["--runs", seeds[0], other, "--output_dir", str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
