"""The memory plan against the peaks of the same steps with real, random weights.

On a GPU torch's allocator says the peak; on a CPU the storages are counted, so that this only
shows that pretended tensors are counted as real ones are.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator

import torch
from part import MODELS, Row, device_of, run_part
from transformers import LlamaConfig

from safe_rlhf_panacea.memory.__main__ import COMMAND, GIB
from safe_rlhf_panacea.memory.held import held
from safe_rlhf_panacea.memory.models import LiveBytes

TOLERANCE = 0.15
# Shape, flags.
JOBS = [
    ("1b", "--algorithm dpo --per_device_train_batch_size 4"),
    ("1b", "--algorithm dpo --per_device_train_batch_size 4 --mean_length 180"),
    ("1b", "--algorithm ppo --ptx --per_device_train_batch_size 8"),
    ("1b", "--algorithm grpo --per_device_train_batch_size 8"),
    ("7b", "--algorithm dpo --per_device_train_batch_size 2"),
    ("7b", "--algorithm ppo --per_device_train_batch_size 4"),
]
TINY = [("tiny", f"--algorithm {name} --max_length 32 --bf16 false") for name in ("dpo", "ppo")]


class Allocated:
    """``LiveBytes`` that asks torch's allocator."""

    wide = widest = 0

    def __enter__(self) -> Allocated:
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def restart(self) -> None:
        """Begin to look for a peak anew."""
        torch.cuda.reset_peak_memory_stats()

    @property
    def now(self) -> int:
        """Bytes in tensors."""
        return torch.cuda.memory_allocated()

    @property
    def peak(self) -> int:
        """The most since ``restart``."""
        return torch.cuda.max_memory_allocated()


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """Every job: each part of a step, with recomputation and without."""
    device = device_of()
    for shape, flags in TINY if args.tiny else JOBS:
        job = COMMAND.read(f"--model {shape} --device {device} {flags}".split())
        config = LlamaConfig(**MODELS[shape])
        rewards = [config] * job.objectives if job.algorithm == "ppo" else []
        planned = held(job, config, rewards)
        meter = Allocated() if device == "cuda" else LiveBytes()
        found = held(job, config, rewards, meter=meter, device=device)
        for name, part in found.parts.items():
            for way in ("kept", "recomputed"):
                measured = found.weights + getattr(part, way)
                expected = planned.weights + getattr(planned.parts[name], way)
                yield {
                    "model": shape,
                    "flags": flags,
                    "part": name,
                    "activations": way,
                    "planned GiB": expected / GIB,
                    "measured GiB": measured / GIB,
                    "right": abs(expected / measured - 1) < TOLERANCE,
                }


if __name__ == "__main__":
    raise SystemExit(run_part("memory", "Weights and a part of a step, planned and measured", rows))
