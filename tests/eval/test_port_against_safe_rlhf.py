"""The benchmark of the two sides: its table, and that it runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.warm_python import warm_python

FILE = Path(__file__).resolve().parents[2] / "eval" / "benchmarks" / "port_against_safe_rlhf.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("port_against_safe_rlhf", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(speed, memory):
    return {"steps_per_second": speed, "peak_mib": memory, "run_mib": memory - 10, "backbones": 2}


def test_medians_and_verdict(benchmark):
    ours = benchmark.summary([run(3.0, 50), run(9.0, 70), run(4.0, 60)])
    theirs = benchmark.summary([run(2.0, 55)])
    assert (ours["steps_per_second"], ours["peak_mib"], ours["run_mib"]) == (4.0, 60, 50)
    assert (ours["slowest"], ours["fastest"]) == (3.0, 9.0)
    assert benchmark.verdict("dpo", ours, theirs) == "2.00x (ok), MORE memory"
    assert benchmark.verdict("ppo", ours, theirs) == "2.00x (ok), MORE memory"
    theirs = benchmark.summary([run(3.0, 60)])
    assert benchmark.verdict("dpo", ours, theirs) == "1.33x (below 1.5), no more memory"


def test_it_runs_on_the_port_alone(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "executable", warm_python())
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    output = tmp_path / "found.json"
    benchmark.main(
        [
            *("--sizes", "quickstart", "--algorithms", "dpo", "--trainers", "panacea"),
            *("--steps", "1", "--warmup", "1", "--repeats", "1", "--threads", "1"),
            *("--batch_size", "2", "--output", str(output)),
        ]
    )
    table = capsys.readouterr().out
    assert "Safe-RLHF is not installed: the port alone." in table
    assert "quickstart, panacea dpo port" in table
    (result,) = json.loads(output.read_text())["results"]
    (found,) = result["runs"]["port"]
    assert found["backbones"] == 1
    assert found["steps_per_second"] > 0
    assert found["peak_mib"] > found["run_mib"] > 0


def test_a_side_that_fails_is_told(benchmark, monkeypatch):
    monkeypatch.setattr(sys, "executable", warm_python())
    with pytest.raises(benchmark.UserError, match=r"(?s)port, work: .*KeyError"):
        benchmark.run_one_side({"side": "port", "prepare": True}, 1)
