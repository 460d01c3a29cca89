"""Norms and signal-to-noise of an adapter's two parts, against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.algorithms import adapter_progress
from safe_rlhf_panacea.algorithms.adapter_progress import (
    NORMS_EVERY,
    AdapterProgress,
    part_norms,
    signal_to_noise,
)
from tests.tiny import tiny_llama


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    config = AdapterConfig(lora_dim=3, pref_rank=2, lora_scaling=12.0, objectives=("a", "b"))
    adapter = inject_adapter(tiny_llama(), config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


def averages(steps, decay=0.9):
    """Of g and g², from 0, one step after the other."""
    mean = square = torch.zeros_like(steps[0])
    for step in steps:
        mean = decay * mean + (1 - decay) * step
        square = decay * square + (1 - decay) * step**2
    return mean, square


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 2.0])
def test_signal_to_noise_of_known_gradients(count, ratio):
    """Many coordinates stand for the expectation: noise 1 in each, and a mean of the ratio."""
    generator = torch.Generator().manual_seed(count)
    signs = torch.randn(200_000, generator=generator, dtype=torch.float64).sign()
    steps = [
        ratio * signs + torch.randn(len(signs), generator=generator, dtype=torch.float64)
        for _ in range(count)
    ]
    found = signal_to_noise(*averages(steps), count).item()
    assert found == pytest.approx(ratio, abs=0.08)


def test_norms_of_the_dense_parts(adapter):
    found = part_norms(adapter)
    squares = {"shared": 0.0, "preference": 0.0}
    for layer in adapter.layers.values():
        u, v = layer.lora_U.double(), layer.lora_V.double()
        values = 4.0 * torch.cat([layer.lora_sigma.double(), layer.lora_s.double().expand(4)])
        for part, columns in (("shared", slice(0, 3)), ("preference", slice(3, 7))):
            dense = (u[:, columns] * values[columns]) @ v[:, columns].t()
            squares[part] += dense.square().sum().item()
    for part, square in squares.items():
        assert found[part].item() == pytest.approx(math.sqrt(square), rel=1e-5)


def test_gradients_of_micro_batches_are_summed_and_a_resumed_run_goes_on(adapter):
    ids = torch.randint(3, 60, (4, 6), generator=torch.Generator().manual_seed(1))
    adapter.set_preference(torch.tensor([0.2, 0.8]))
    parameters = [p for name, p in adapter.named_parameters().items() if name.endswith("lora_s")]
    whole, halves = AdapterProgress(adapter), AdapterProgress(adapter)
    sums = []
    for _ in range(2):
        for rows in (ids[:2], ids[2:]):
            adapter.model(rows).logits.square().mean().backward()
        sums.append(torch.cat([p.grad for p in parameters]).double())
        for parameter in adapter.parameters():
            parameter.grad = None
        found = whole.metrics()
        state = halves.state_dict() if halves.count else None
        halves.metrics()
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1)
    assert state is not None and whole.count == 2
    expected = signal_to_noise(*averages(sums), 2).item()
    assert found["train/signal_to_noise_preference"] == pytest.approx(expected, rel=1e-4)
    resumed = AdapterProgress(adapter)
    resumed.load_state_dict(halves.state_dict())
    adapter.model(ids).logits.mean().backward()
    assert resumed.metrics() == whole.metrics()


def test_norms_come_every_so_many_updates(adapter):
    progress = AdapterProgress(adapter)
    assert progress.metrics() == {}
    found = []
    for _ in range(NORMS_EVERY):
        adapter.model(torch.tensor([[3, 4]])).logits.mean().backward()
        found.append(progress.metrics())
    assert [("train/norm_shared" in one) for one in found] == [False] * (NORMS_EVERY - 1) + [True]
    assert set(found[-1]) == {
        f"train/{what}_{part}"
        for what in ("norm", "signal_to_noise")
        for part in ("shared", "preference")
    }


def test_gradients_are_those_of_all_processes(adapter, monkeypatch):
    """With the other process's each number is another multiple of the own one."""
    multiples = torch.linspace(-2, 30, 200)
    monkeypatch.setattr(adapter_progress, "all_reduce_sum", lambda own: own * multiples[: len(own)])
    parameters = [p for name, p in adapter.named_parameters().items() if name.endswith("sigma")]
    progress, sums = AdapterProgress(adapter), []
    for token in (4, 5, 6):
        for parameter in parameters:
            parameter.grad = None
        adapter.model(torch.tensor([[3, token]])).logits.square().mean().backward()
        own = torch.cat([p.grad for p in parameters])
        sums.append((own * multiples[: len(own)]).double())
        found = progress.metrics()
    expected = signal_to_noise(*averages(sums), 3).item()
    assert 0 < found["train/signal_to_noise_shared"] == pytest.approx(expected, rel=1e-4)


class Waits(TorchDispatchMode):
    """Counts single numbers that are read: on a GPU the host waits for each."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_host_does_not_wait_for_each_layer(adapter):
    progress = AdapterProgress(adapter)
    progress.count = NORMS_EVERY - 1
    adapter.model(torch.tensor([[3, 4]])).logits.mean().backward()
    with Waits() as waits:
        assert len(progress.metrics()) == 4
    assert waits.count == 0
