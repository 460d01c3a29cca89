"""The process group, with and without a launcher."""

from __future__ import annotations

import os

import torch

from safe_rlhf_panacea.base.distributed import (
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


def test_means_of_tensors_of_any_shape():
    values = {"a": torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "b": torch.tensor(5.0)}
    assert all_reduce_means(values) == {"a": 3.0, "b": 5.0}
    assert all_reduce_max(torch.tensor([1.0, 4.0])).tolist() == [1.0, 4.0]
