"""Several contenders at the same work: processes of their own that take their rounds in turn."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
CLOCKS = ("wall", "cpu")
WHOLE = "whole"  # what the other timings of a round are parts of
Times = dict[str, dict[str, list[float]]]  # what was timed, then the clock; seconds by round


@dataclass(frozen=True)
class Contender:
    """Who is measured: what its workers are told, and the checkout whose package they import."""

    name: str
    job: dict[str, Any]
    tree: Path = ROOT
    processes: int = 1  # that work together
    ours: bool = True  # whether another checkout may take its place


@dataclass(frozen=True)
class Case:
    """Contenders at the same work; the first is the one that the others are held against."""

    label: str
    contenders: list[Contender]


@dataclass
class Measured:
    """What was found for one contender; MiB of all its processes."""

    times: Times = field(default_factory=dict)
    peak_mib: float = 0.0

    def add(self, answers: Sequence[dict[str, Any]]) -> None:
        """One round of its processes: the slowest one's wall clock, the CPU time of all."""
        for name in answers[0]["times"]:
            found = [answer["times"][name] for answer in answers]
            kept = self.times.setdefault(name, {clock: [] for clock in CLOCKS})
            kept["wall"].append(max(one["wall"] for one in found))
            kept["cpu"].append(sum(one["cpu"] for one in found))
        self.peak_mib = sum(answer["peak_mib"] for answer in answers)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def installed(*names: str) -> bool:
    """Whether all these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def machine(device: str) -> str:
    """The kind of machine, and the versions that matter, in a line."""
    kind = f"{os.cpu_count()} cores"
    if device != "cpu":
        import torch

        kind = torch.cuda.get_device_name()
    packages = filter(installed, ("torch", "transformers", "deepspeed", "peft", "trl"))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([kind, platform.machine(), f"Python {platform.python_version()}", *versions])


class Workers:
    """The processes of one contender, ready when they are made."""

    def __init__(self, contender: Contender, threads: int, stack: ExitStack) -> None:
        """Start them; they end with ``stack``. None may import the package of another tree."""
        self.name = contender.name
        self.processes, self.said = [], []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        others = [path for path in given if path and Path(path).resolve() != ROOT]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(contender.tree), *others]),
            "PANACEA_BASE": contender.job.get("base", "port"),
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "WANDB_MODE": "offline",
            "HF_HUB_OFFLINE": "1",
        }
        if contender.processes > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment["WORLD_SIZE"] = str(contender.processes)
        for rank in range(contender.processes):
            if contender.processes > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            said = tempfile.TemporaryFile("w+")  # noqa: SIM115
            stack.callback(said.close)
            process = subprocess.Popen(
                [sys.executable, str(WORKER), json.dumps(contender.job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=tempfile.gettempdir(),  # a package in the present folder would come first
                env=environment,
            )
            stack.enter_context(process)  # waits for it
            stack.callback(process.kill)
            self.processes.append(process)
            self.said.append(said)
        for answer in self._answers():
            package = answer["package"]
            if package and contender.tree.resolve() not in Path(package).resolve().parents:
                raise UserError(f"{self.name}: measured {package}, not that of {contender.tree}")

    def _answers(self) -> list[dict[str, Any]]:
        found = []
        for process, said in zip(self.processes, self.said, strict=True):
            line = process.stdout.readline()
            if not line:
                process.wait()
                said.seek(0)
                raise UserError(f"{self.name} failed: {said.read().strip()[-600:]}")
            found.append(json.loads(line))
        return found

    def work(self) -> list[dict[str, Any]]:
        """Let every process work through one round, and return what each of them measured."""
        for process in self.processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return self._answers()


def run_once(job: dict[str, Any]) -> None:
    """Do a job in a process of its own, unmeasured."""
    with ExitStack() as stack:
        Workers(Contender(job["part"], job), threads=1, stack=stack).work()


def measure(
    case: Case, rounds: int, warmup: int, threads: int, *, alone: bool = False
) -> dict[str, Measured]:
    """The contenders of a case by name, every second round in the opposite order.

    ``warmup`` rounds do not count; ``alone`` takes one contender after the other.
    """
    groups = [[one] for one in case.contenders] if alone else [case.contenders]
    found = {contender.name: Measured() for contender in case.contenders}
    for group in groups:
        with ExitStack() as stack:
            workers = [Workers(contender, threads, stack) for contender in group]
            for number in range(warmup + rounds):
                for one in workers if number % 2 else reversed(workers):
                    answers = one.work()
                    if number >= warmup:
                        found[one.name].add(answers)
    return found
