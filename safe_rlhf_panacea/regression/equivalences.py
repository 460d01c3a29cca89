"""Ways to train that must come to the same, trained and held against each other in one go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from safe_rlhf_panacea.base.threads import one_thread
from safe_rlhf_panacea.regression.checks import CannotRun, Check, worst_of
from safe_rlhf_panacea.regression.tiny_runs import flags_of
from safe_rlhf_panacea.regression.tiny_world import TinyWorld
from safe_rlhf_panacea.regression.trace import Trace, read_trace, trace
from safe_rlhf_panacea.regression.ways import EQUIVALENCES, Way

# Of a series' largest number, as for the recorded runs and for the same reason: the two sides add
# float32 numbers in another order.
RELATIVE = 1e-4
# Of the trained adapter's norm: Adam divides by the root of small second moments, and so makes the
# rounding of small gradients larger. Measured: 1e-5 at most.
RELATIVE_ADAPTER = 1e-3
# They are noted once a step, and steps differ where batches are cut.
NOT_COMPARED = ("tokens", "lr", "actor_lr", "reward_critic_lr")


def _torchrun(algorithm: str, flags: list[str], processes: int, output: Path) -> Trace:
    """The trace of several processes under torchrun.

    Raises:
        CannotRun: one of them failed; what they said is in a file beside their folder.
    """
    file = output.with_suffix(".json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "safe_rlhf_panacea.regression.trace"]
    sources = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, algorithm, str(file), *flags],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        log = output.with_suffix(".log")
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        raise CannotRun(f"{processes} processes of Panacea-{algorithm.upper()} failed: see {log}")
    return read_trace(file, output)


def train(algorithm: str, way: Way, world: TinyWorld, output: Path) -> Trace:
    """Train one way."""
    flags = flags_of(algorithm, world, output, list(way.flags), even=True)
    if way.processes > 1:
        return _torchrun(algorithm, flags, way.processes, output)
    return trace(algorithm, flags, dealt=way.dealt)


def _by_update(numbers: list[float], updates: int) -> list[float]:
    """Means over the micro batches of each update."""
    size = len(numbers) // updates
    return [sum(numbers[i * size : (i + 1) * size]) / size for i in range(updates)]


def _adapter_difference(one: Path, other: Path) -> float:
    """‖one - other‖ / ‖one‖ of two trained adapters, all their tensors as one vector.

    Not of single entries: where a gradient is nearly nothing, all of it may be rounding.
    """
    from safetensors.torch import load_file

    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    apart = sum((first[key] - second[key]).double().square().sum().item() for key in first)
    whole = sum(tensor.double().square().sum().item() for tensor in first.values())
    return (apart / whole) ** 0.5


def compare(name: str, one: Trace, other: Trace) -> list[Check]:
    """The worst update of every series, and the trained adapters."""
    where = "trajectory/equivalences"
    checks = []
    for key, expected in one.series.items():
        if key in NOT_COMPARED:
            continue
        tolerance = RELATIVE * max(map(abs, expected))
        measured = _by_update(other.series[key], len(expected))
        checks.append(worst_of(where, f"{name}: {key}", expected, measured, tolerance))
    apart = _adapter_difference(one.folder, other.folder)
    return [*checks, Check(where, f"{name}: trained adapter", 0.0, apart, RELATIVE_ADAPTER)]


@one_thread()
def check_equivalences(world: TinyWorld, folder: Path) -> list[Check]:
    """Train all ways, those that several need once, and compare."""
    done: dict[tuple[str, Way], Trace] = {}
    checks = []
    for pair in EQUIVALENCES:
        for way in (pair.one, pair.other):
            key = (pair.algorithm, way)
            if key not in done:
                done[key] = train(*key, world, folder / f"way-{len(done)}")
        traces = (done[pair.algorithm, way] for way in (pair.one, pair.other))
        checks += compare(f"Panacea-{pair.algorithm.upper()}, {pair.name}", *traces)
    return checks
