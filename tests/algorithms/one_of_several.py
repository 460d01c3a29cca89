"""What one process of a distributed test does; run by ``test_processes.py`` under torchrun.

Trains, then gathers from all ranks the last λ and the adapter, and writes what it found.
"""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist

from safe_rlhf_panacea.dashboard import writers
from tests.algorithms.helpers import dpo_trainer, ppo_trainer


def gather(tensor):
    """The tensor of every rank."""
    copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, tensor.contiguous())
    return copies


def main():
    """Train as ``dpo`` or ``ppo`` with the given flags; report to the given file."""
    algorithm, report, *flags = sys.argv[1:]
    writers.render = lambda *_, **__: ""  # drawing takes longer than training here
    trainer = (dpo_trainer if algorithm == "dpo" else ppo_trainer)(flags)
    trainer.train()
    trainer.save()
    trainer.logger.close()
    preferences = gather(trainer.preference.float())
    noise = gather(torch.rand(1))
    flat = torch.cat([p.detach().float().flatten() for p in trainer.adapter.parameters()])
    adapters = gather(flat)
    if dist.get_rank() == 0:
        found = {
            "world_size": dist.get_world_size(),
            "preferences": [p.tolist() for p in preferences],
            "adapters_agree": all(torch.equal(adapters[0], other) for other in adapters),
            "noise": [n.item() for n in noise],
            "moved": flat.abs().max().item() > 0.1,
        }
        with open(report, "w", encoding="utf-8") as file:
            json.dump(found, file)
    dist.barrier()
    # All is said. Torn down in order, gloo's threads abort a process now and then (seen once in
    # some hundred: "terminate called without an active exception").
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
