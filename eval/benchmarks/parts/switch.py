"""Setting λ: all layers of a model at once."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import Case, Contender

TITLE = "Setting another λ"
BLOCKS, MATRICES = 32, 7  # of a 7B model; what a switch costs does not depend on their width
REPEATS = 1000


def cases(args: Namespace) -> list[Case]:
    """The case of this part: another λ for all matrices of a 7B model."""
    job = dict(part="switch", device=args.device, imports=["torch", "safe_rlhf_panacea.adapter"])
    return [Case(f"{BLOCKS * MATRICES} matrices", [Contender("this package", job)])]


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """An adapter on as many matrices, and two λ in turn."""
    import torch
    from torch import nn

    from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter

    layers = (nn.Linear(8, 8, device=job["device"]) for _ in range(BLOCKS * MATRICES))
    model = nn.ModuleDict({"layers": nn.ModuleList(layers)})
    adapter = inject_adapter(model, AdapterConfig())
    preferences = [torch.tensor(values, device=job["device"]) for values in ([0.2, 0.8], [1.0, 0])]

    def work(watch: Any) -> None:
        turns = itertools.cycle(preferences)
        with watch.time("set λ", REPEATS):
            for _ in range(REPEATS):
                adapter.set_preference(next(turns))

    return work
