"""Runs before any test: one thread, no network, no account, no display."""

from __future__ import annotations

import importlib.util
import os

# These are read once, when the libraries are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Also where Safe-RLHF is installed: what runs on it says so (tests/contract).
os.environ.setdefault("PANACEA_BASE", "port")

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def no_page(monkeypatch):
    """Fronts as numbers only: drawing them takes longer than training does here."""
    monkeypatch.setattr("safe_rlhf_panacea.dashboard.render", lambda *_, **__: "")
    monkeypatch.setattr("safe_rlhf_panacea.fronts.result.FrontResult.plot", lambda *_, **__: None)


def pytest_addoption(parser):
    parser.addoption(
        "--record",
        action="store_true",
        help="write the numbers of tests/regression anew, where they were meant to change",
    )
    parser.addoption(
        "--record-safe-rlhf",
        action="store_true",
        help="write the installed Safe-RLHF's numbers into tests/contract/safe_rlhf_numbers.json",
    )


def pytest_configure(config):
    if config.getoption("record_safe_rlhf") and importlib.util.find_spec("safe_rlhf") is None:
        raise pytest.UsageError("--record-safe-rlhf: Safe-RLHF is not installed")
