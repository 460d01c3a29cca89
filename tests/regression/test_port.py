"""What the suites refuse to run on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import safe_rlhf_panacea.base as base
from safe_rlhf_panacea.base.threads import one_thread
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.port import check_cpu, prepare_port


def test_not_on_safe_rlhf(monkeypatch):
    prepare_port()
    monkeypatch.setattr(base, "backend", lambda: SimpleNamespace(name="safe_rlhf"))
    with pytest.raises(CannotRun, match="PANACEA_BASE=port"):
        prepare_port()


def test_not_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_cpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(CannotRun, match="CUDA_VISIBLE_DEVICES"):
        check_cpu()


def test_one_thread_inside_and_as_many_as_before_after_it():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
