"""Two methods over several seeds: every number by hand, and what does not go together."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea.io import read_json
from tests.eval.evaluations import GRID, points, write_evaluation

# Two-sided 95 % quantile of Student's t with 2 degrees of freedom, from a table.
T_2 = 4.30265


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "eval"))
    yield importlib.import_module("over_seeds").main
    sys.modules.pop("over_seeds")


def write(folder, values, **changes):
    """An evaluation with J at λ = (0, 1), (½, ½), (1, 0)."""
    front = [point.model_dump(mode="json") for point in points(GRID, values)]
    return write_evaluation(folder, 1.0, front=front, **changes)


@pytest.fixture
def seeds(tmp_path):
    """Three seeds: the baseline's points lie on a square's corner, the method's further out."""
    own, base = [], []
    for seed, gain in enumerate((0.1, 0.3, 0.2)):
        high = 1 + gain
        own.append(write(tmp_path / f"own-{seed}", [[0, high], [high, high], [high, 0]]))
        point = [-1.0 - seed, -1.0]
        base.append(
            write(tmp_path / f"base-{seed}", [[0, 1], [1, 1], [1, 0]], reference_point=point)
        )
    return own, base


def test_means_and_intervals_by_hand(main, seeds, tmp_path, capsys):
    own, base = seeds
    out = tmp_path / "out"
    flags = ["--reference_point", "0", "0", "--output_dir", str(out)]
    main(["--runs", *own, "--baselines", *base, *flags])
    found = read_json(out / "over_seeds.json")
    gains = [0.1, 0.3, 0.2]  # at every λ ⟨λ, ΔJ⟩ is the gain itself
    ratios = [(1 + gain) ** 2 for gain in gains]
    assert [seed["mean_scalarised"] for seed in found["seeds"]] == pytest.approx(gains)
    assert [seed["hypervolume_ratio"] for seed in found["seeds"]] == pytest.approx(ratios)
    assert found["seeds"][0]["at_vertices"] == pytest.approx([1.1, 1.1])
    half = T_2 * 0.1 / math.sqrt(3)  # the gains' standard deviation is 0.1
    assert found["mean_scalarised"]["mean"] == pytest.approx(0.2)
    assert found["mean_scalarised"]["interval"] == pytest.approx([0.2 - half, 0.2 + half], rel=1e-4)
    logs = [math.log(ratio) for ratio in ratios]
    mean = sum(logs) / 3
    spread = math.sqrt(sum((log - mean) ** 2 for log in logs) / 2)
    ends = [math.exp(mean + side * T_2 * spread / math.sqrt(3)) for side in (-1, 1)]
    assert found["hypervolume_ratio"]["geometric_mean"] == pytest.approx(math.exp(mean))
    assert found["hypervolume_ratio"]["interval"] == pytest.approx(ends, rel=1e-4)
    middle = found["mean_fronts"][0]["points"][1]
    assert middle["objectives"] == pytest.approx([1.2, 1.2])
    assert middle["standard_errors"] == pytest.approx([0.1 / math.sqrt(3)] * 2)
    assert (out / "over_seeds.png").read_bytes().startswith(b"\x89PNG")
    assert "95 % over the seeds" in capsys.readouterr().out


def test_one_reference_point_for_all_seeds_and_no_interval_of_one(main, seeds, tmp_path, capsys):
    own, base = seeds
    main(["--runs", *own, "--baselines", *base, "--output_dir", str(tmp_path / "all")])
    lowest = [min(read_json(Path(f) / "front.json")["reference_point"][i] for f in own + base)
              for i in range(2)]  # fmt: skip
    assert read_json(tmp_path / "all" / "over_seeds.json")["reference_point"] == lowest
    main(["--runs", own[0], "--baselines", base[0], "--output_dir", str(tmp_path / "one")])
    assert read_json(tmp_path / "one" / "over_seeds.json")["mean_scalarised"]["interval"] is None
    assert "one seed: no interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "accuracy"}, "has kind accuracy"),
        ({"front": None}, "3 --runs and 2 --baselines"),
        ({"runs": "twice"}, "--runs names a folder twice"),
    ],
)
def test_what_does_not_go_together_is_refused(main, seeds, tmp_path, change, message, capsys):
    own, base = seeds
    if "kind" in change:
        write(tmp_path / "base-2", [[0, 1], [1, 1], [1, 0]], **change)
    elif "runs" in change:
        own = [own[0], own[1], own[0]]
    else:
        base = base[:2]
    with pytest.raises(SystemExit) as caught:
        main(["--runs", *own, "--baselines", *base, "--output_dir", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
