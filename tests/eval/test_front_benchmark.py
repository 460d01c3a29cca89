"""The front benchmark's arms and tables."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.eval.evaluations import front as any_front
from tests.eval.evaluations import points
from tests.warm_python import warm_python

PROGRAM = Path(__file__).resolve().parents[2] / "eval" / "front_benchmark.py"


@pytest.fixture
def module(monkeypatch):
    """Imports one of the program's modules."""
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module


@pytest.fixture
def tables(module):
    return module("front_benchmark_tables")


def front(*values):
    made = points([[0.0, 1.0], [1.0, 0.0]], values)
    return any_front(1.0, kind="accuracy", points=made, reference_point=[0.25, 0.25]).to_json()


def test_ratio_of_hypervolumes_by_hand(tables):
    # reference (0.25, 0.25): two points that span 0.5 × 0.25 + 0.25 × 0.25 = 0.1875, against
    # one that counts, 0.25 × 0.5 = 0.125
    collected = {
        7: {
            "dpo/panacea/model": front((0.5, 0.75), (0.75, 0.5)),
            "dpo/soups/model": front((0.5, 0.75), (0.25, 0.9)),
        }
    }
    steps = SimpleNamespace(ppo_steps=4, dpo_steps=4)
    text, numbers = tables.benchmark_tables(collected, {}, steps)
    found = numbers["indicators"]
    assert found["dpo/panacea/model"][7]["hypervolume"] == pytest.approx(0.1875)
    assert found["dpo/soups/model"][7]["hypervolume"] == pytest.approx(0.125)
    assert numbers["hypervolume_ratios"] == {
        "DPO, Panacea / soups, accuracy": {7: pytest.approx(1.5)}
    }
    assert "1.500" in text


def test_refusals_at_the_harmless_end_by_hand(tables):
    def rows(*rates):
        kinds = zip(("harmless", "severe"), rates, strict=False)
        end = [{"preference": [0.0, 1.0], "severity": k, "refusal_rate": r} for k, r in kinds]
        other = {"preference": [1.0, 0.0], "severity": "harmless", "refusal_rate": 1.0}
        return [*end, other]

    text = tables.refusal_rows({3: rows(0.25, 0.5), 4: rows(0.05, 1.0)})
    lines = [line.split() for line in text.splitlines()]
    assert ["harmless", "0.150", "0.250", "0.050"] in lines
    assert ["severe", "0.750", "0.500", "1.000"] in lines
    lines = tables.refusal_rows({3: rows(0.25, 0.5), 4: rows(0.05)[:1]}).splitlines()
    assert ["severe", "0.500", "0.500", "-"] in [line.split() for line in lines]


def test_the_program_runs_a_job_and_takes_up_what_is_there(tmp_path):
    command = [
        warm_python(),
        str(PROGRAM),
        *("--settings", "smoke", "--seeds", "1", "--jobs", "dpo-main", "--workers", "1"),
        *("--output_dir", str(tmp_path)),
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "dpo/panacea/model" in first
    written = (tmp_path / "seed-1000" / "dpo-main.json").stat().st_mtime_ns
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "seed-1000" / "dpo-main.json").stat().st_mtime_ns == written
    assert "DPO, Panacea / soups, accuracy" in second or "dpo/soups/model" in second
