"""One of those who are measured: works whenever ``measuring.py`` asks, in a process of its own.

The job is the last argument, a JSON object. A line on stdin asks for one round, a line of JSON on
stdout answers; what libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The package itself comes from PYTHONPATH: it may be another checkout's.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MIB = 1024**2


class Stopwatch:
    """Wall-clock and CPU seconds of what is timed in one round, by name."""

    def __init__(self, device: str) -> None:
        """Nothing is timed yet."""
        self.device = device
        self.found: dict[str, dict[str, float]] = {}

    def _now(self) -> tuple[float, float]:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    @contextmanager
    def time(self, name: str, repeats: int = 1) -> Iterator[None]:
        """Add what the block takes, once, to a name; it did the work so many times."""
        wall, cpu = self._now()
        yield
        later = self._now()
        before = self.found.get(name, {"wall": 0.0, "cpu": 0.0})
        self.found[name] = {
            "wall": before["wall"] + (later[0] - wall) / repeats,
            "cpu": before["cpu"] + (later[1] - cpu) / repeats,
        }


def peak_mib(device: str) -> float:
    """The most memory that this process has held, on the accelerator if it computes there."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / MIB
    # Not ru_maxrss, which begins with what the parent held.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def answer(channel: Any, **found: Any) -> None:
    """Write one line."""
    print(json.dumps(found), file=channel, flush=True)


def main() -> None:
    """Import, prepare, then work until stdin ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)
    job = json.loads(sys.argv[-1])
    for name in job["imports"]:
        importlib.import_module(name)
    package = sys.modules.get("safe_rlhf_panacea")
    imported = peak_mib(job["device"])
    work = importlib.import_module("benchmarks.parts").PREPARE[job["part"]](job)
    answer(channel, package=getattr(package, "__file__", None))
    for _ in sys.stdin:
        watch = Stopwatch(job["device"])
        work(watch)
        answer(channel, times=watch.found, peak_mib=peak_mib(job["device"]) - imported)


if __name__ == "__main__":
    main()
