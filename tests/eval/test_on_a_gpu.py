"""``eval/on_a_gpu.sh``, as far as a CPU goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "eval" / "on_a_gpu.sh"
ABSENT = ("deepspeed", "datasets", "wandb")


def run(folder, *words, **environment):
    """The script, where three libraries cannot be imported."""
    absent = folder / "absent"
    absent.mkdir()
    for name in ABSENT:
        (absent / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "OUTPUT": str(folder / "found"),
            "PYTHONPATH": str(absent),
            **environment,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.parametrize("part", ["equal", "memory"])
def test_a_part_runs_on_a_cpu_with_torch_and_transformers_alone(part, tmp_path):
    done = run(tmp_path, part, "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found" / f"{part}.json").read_text())
    assert found["tiny"] and found["rows"] and all(row["right"] for row in found["rows"])
    table = (tmp_path / "found" / f"{part}.md").read_text().splitlines()
    assert len([line for line in table if line.startswith("| ")]) == 2 + len(found["rows"])


@pytest.mark.skipif(
    not (ROOT / "eval" / "benchmarks" / "run.py").exists(), reason="the benchmarks are not there"
)
def test_the_layer_is_measured(tmp_path):
    done = run(tmp_path, "layer", "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "found" / "layer.json").read_text())["results"]


def test_an_unknown_part_is_told_what_parts_there_are(tmp_path):
    done = run(tmp_path, "everything")
    assert done.returncode == 2 and "usage: bash eval/on_a_gpu.sh PART" in done.stderr
