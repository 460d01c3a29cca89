"""The process group, with and without a launcher."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from safe_rlhf_panacea import distributed
from safe_rlhf_panacea.distributed import (
    all_reduce_max,
    all_reduce_means,
    get_rank,
    get_world_size,
    init_distributed,
)


def test_one_process_without_a_launcher_leaves_no_port_behind(monkeypatch):
    for name in ("MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    device = init_distributed()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (get_rank(), get_world_size()) == (0, 1)
    assert "MASTER_PORT" not in os.environ
    assert init_distributed() == device  # a second time does no harm


def test_a_group_that_was_started_here_is_left_at_exit(monkeypatch):
    import deepspeed

    called = []
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **_: called.append("started"))
    monkeypatch.setattr(distributed, "leave_at_exit", lambda: called.append("will be left"))
    init_distributed()
    assert called == ["started", "will be left"]


@pytest.mark.parametrize(("backend", "left"), [("gloo", 1), ("nccl", 0)])
def test_only_gloo_s_group_is_closed(backend, left, monkeypatch):
    called = []
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: backend)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: called.append(1))
    with monkeypatch.context() as now:
        now.setattr(distributed.atexit, "register", lambda leave: leave())
        distributed.leave_at_exit()
    assert len(called) == left


def test_its_threads_get_the_interpreter_s_lock_before_python_ends(monkeypatch):
    """A DeepSpeed engine holds the group, so closing it does not wait for them."""
    closed, released = threading.Event(), []
    thread = threading.Thread(target=lambda: (closed.wait(), released.append("tensors")))
    thread.start()
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(distributed.dist, "destroy_process_group", closed.set)
    with monkeypatch.context() as now:
        now.setattr(distributed.atexit, "register", lambda leave: leave())
        distributed.leave_at_exit()
    assert released == ["tensors"]


def test_means_of_tensors_of_any_shape():
    values = {"a": torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "b": torch.tensor(5.0)}
    assert all_reduce_means(values) == {"a": 3.0, "b": 5.0}
    assert all_reduce_max(torch.tensor([1.0, 4.0])).tolist() == [1.0, 4.0]
