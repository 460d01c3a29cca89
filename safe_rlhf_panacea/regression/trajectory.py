"""The suite ``trajectory``: every step of short trainings against recorded ones, and equivalences.

Twenty steps and not one, because σ and s start at 0: the first step moves nothing else, and λ, U
and V have no effect before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.threads import one_thread
from safe_rlhf_panacea.regression.checks import CannotRun, Check, worst_of
from safe_rlhf_panacea.regression.port import check_cpu, prepare_port
from safe_rlhf_panacea.regression.references import (
    check_recordable,
    read_reference,
    write_reference,
)
from safe_rlhf_panacea.regression.suites import Options
from safe_rlhf_panacea.regression.tiny_runs import (
    RECORDED,
    STEPS,
    algorithm_of,
    common_flags,
    flags_of,
)
from safe_rlhf_panacea.regression.tiny_world import TinyWorld, build_tiny_world

HELP = f"the first {STEPS} steps of tiny trainings, and that what should be equal is equal"
# Of the largest number of a series. Numbers of threads and instruction sets made a difference of
# at most 3e-6 of it, a constant that is wrong by one per cent one of 8e-3 and more.
RELATIVE = 1e-4
# λ is one float32 away from a double; tokens are whole numbers.
ABSOLUTE = {"λ": 1e-7, "tokens": 0.0}

Series = Mapping[str, list[float]]


def tolerances_of(series: Series) -> dict[str, float]:
    """The largest difference that counts as none, for every series."""
    return {
        name: ABSOLUTE.get(name.split("_")[0], RELATIVE * max(map(abs, numbers)))
        for name, numbers in series.items()
    }


def compare(
    reference: str, expected: Series, measured: Series, tolerances: Mapping[str, float]
) -> list[Check]:
    """The worst step of every series.

    Args:
        reference: its name.
        expected: the recorded series.
        measured: today's; where the run was stopped early, the recorded ones are cut.
        tolerances: by series.

    Raises:
        CannotRun: the two have not the same series.
    """
    if set(expected) != set(measured):
        odd = ", ".join(sorted(set(expected) ^ set(measured)))
        raise CannotRun(f"{reference}: recorded and measured are not the same numbers: {odd}")
    return [
        worst_of(reference, name, expected[name][: len(numbers)], numbers, tolerances[name])
        for name, numbers in measured.items()
    ]


@one_thread()
def measure(name: str, world: TinyWorld, folder: Path, steps: int | None = None) -> Series:
    """Train one of the recorded runs; all its series."""
    from safe_rlhf_panacea.regression.trace import trace

    algorithm = algorithm_of(name)
    flags = flags_of(algorithm, world, folder / name, RECORDED[name])
    return trace(algorithm, flags, steps=steps).series


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CannotRun(f"{path}: no reference; record it first")
    reference = read_reference(path)
    if reference["values"]["flags"] != _flags(path.stem):
        raise CannotRun(f"{path}: recorded with other flags than today's; record anew")
    return reference


def _flags(name: str) -> list[str]:
    return [*common_flags(algorithm_of(name)), *RECORDED[name]]


def run(options: Options) -> list[Check]:
    """Train every recorded run again, then the equivalences.

    Raises:
        CannotRun: a reference is missing, Safe-RLHF is underneath, or there is a GPU.
    """
    from safe_rlhf_panacea.regression.equivalences import check_equivalences

    prepare_port()
    check_cpu()
    references = {n: _read(options.references / "trajectory" / f"{n}.json") for n in RECORDED}
    world = build_tiny_world(options.work_dir / "world")
    checks = []
    for name, reference in references.items():
        measured = measure(name, world, options.work_dir)
        recorded = reference["values"]["series"]
        checks += compare(f"trajectory/{name}", recorded, measured, reference["tolerances"])
    return checks + check_equivalences(world, options.work_dir)


def record(options: Options) -> list[Path]:
    """Write one reference for every recorded run."""
    prepare_port()
    check_cpu()
    paths = {name: options.references / "trajectory" / f"{name}.json" for name in RECORDED}
    for path in paths.values():
        check_recordable(path)
    world = build_tiny_world(options.work_dir / "world")
    found = {name: measure(name, world, options.work_dir) for name in RECORDED}
    return [_write(paths[name], series) for name, series in found.items()]


def _write(path: Path, series: Series) -> Path:
    algorithm = algorithm_of(path.stem).upper()
    return write_reference(
        path,
        suite="trajectory",
        what=f"Panacea-{algorithm}, {STEPS} steps of a model of width 32: what every step logs, "
        "its λ, the norm of the gradients before clipping, and for PPO Σ position · id of the "
        "sampled tokens",
        source="trained with this package in float32 on a CPU, one process, ZeRO 0",
        values={"flags": _flags(path.stem), "series": dict(series)},
        tolerances=tolerances_of(series),
        reason=REASON,
    )


REASON = (
    f"{RELATIVE:g} of the largest number of each series: float32 sums differ with the order in "
    "which a processor and its libraries add, by up to 3e-6 of it over these steps (measured: one "
    "and two threads, three instruction sets), while a constant that is wrong by one per cent "
    "moves the gradient norms by 8e-3 and more. λ is exact but for the last bit of a float32; it "
    "comes from torch's generator, and another torch or another kind of processor may draw "
    "others, which then shows here first. Tokens are equal or not: such rounding moves a token "
    "across the border of its neighbour about once in a hundred runs; the step is named, and "
    "everything after it is another run."
)
