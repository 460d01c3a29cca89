"""Two ways that must agree, and that it is seen when they do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safe_rlhf_panacea.regression import equivalences
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.equivalences import check_equivalences, compare
from safe_rlhf_panacea.regression.tiny_world import build_tiny_world
from safe_rlhf_panacea.regression.trace import Trace
from safe_rlhf_panacea.regression.ways import PER_SAMPLE, Equivalence, Way
from tests.warm_python import warm_python


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_tiny_world(tmp_path_factory.mktemp("world"))


def fake(folder, series, weights):
    folder.mkdir()
    tensors = {name: torch.tensor(values) for name, values in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return Trace(series, folder)


def test_micro_batches_are_averaged_and_adapters_compared_by_their_norm(tmp_path):
    one = fake(tmp_path / "one", {"loss": [2.0, 1.0], "lr": [9.0, 9.0]}, {"U": [3.0], "V": [4.0]})
    other = fake(
        tmp_path / "other",
        {"loss": [1.5, 2.5, 0.5, 1.6], "lr": [0.0] * 4},
        {"U": [3.0], "V": [4.05]},
    )
    loss, adapter = compare("x", one, other)
    # means (2, 1.05): 0.05 at the second update, allowed 1e-4 of 2
    assert loss.what == "x: loss, step 2"
    assert loss.difference == pytest.approx(0.05)
    assert loss.tolerance == pytest.approx(2e-4)
    assert adapter.measured == pytest.approx(0.05 / 5, rel=1e-3)
    assert not loss.same and not adapter.same


def only(monkeypatch, pair):
    monkeypatch.setattr(equivalences, "EQUIVALENCES", (pair,))


def named(name):
    """The first pair of this name, DPO's."""
    return next(pair for pair in equivalences.EQUIVALENCES if pair.name.startswith(name))


def test_accumulation_equals_the_whole_batch_and_is_measured(world, tmp_path, monkeypatch):
    only(monkeypatch, named("accumulation"))
    checks = check_equivalences(world, tmp_path)
    assert all(check.same for check in checks)
    assert any(check.difference for check in checks)  # two computations, not one twice


def test_ways_that_differ_fall_out(world, tmp_path, monkeypatch):
    whole = named("two processes").one
    only(monkeypatch, Equivalence("λ of its own = one λ", "dpo", whole, Way(PER_SAMPLE)))
    bad = [check.what for check in check_equivalences(world, tmp_path) if not check.same]
    assert any("gradient norm of the model" in what for what in bad)
    assert any("trained adapter" in what for what in bad)


@pytest.mark.multiprocess
def test_two_processes_equal_one(world, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", warm_python())
    only(monkeypatch, named("ZeRO 2 on two"))
    checks = check_equivalences(world, tmp_path)
    assert len(checks) > 5
    assert all(check.same for check in checks)


def test_a_process_that_fails_leaves_its_output(world, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="out\n", stderr="why\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    only(monkeypatch, Equivalence("x", "dpo", Way(processes=2), Way()))
    with pytest.raises(CannotRun, match="2 processes of Panacea-DPO failed") as error:
        check_equivalences(world, tmp_path)
    log = Path(str(error.value).rpartition(" ")[2])
    assert log.read_text(encoding="utf-8") == "out\nwhy\n"
