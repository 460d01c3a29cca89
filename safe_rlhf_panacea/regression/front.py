"""The suite ``front``: a small miniature's fronts against bands recorded from several seeds.

A changed constant that twenty steps of the suite ``trajectory`` see may be harmless here; what
this one sees is a λ that no longer does its work, whichever stage lost it.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.experiments.settings import QUICK, REFERENCE_POINTS, MiniatureSettings
from safe_rlhf_panacea.regression.bands import FALSE_ALARM, joint_bands
from safe_rlhf_panacea.regression.checks import CannotRun, Check
from safe_rlhf_panacea.regression.references import (
    check_recordable,
    read_reference,
    write_reference,
)
from safe_rlhf_panacea.regression.small_fronts import Numbers, train_fronts
from safe_rlhf_panacea.regression.suites import Options

HELP = "fronts of a small miniature against bands of several seeds (minutes)"
ALGORITHMS = ("ppo", "dpo")
# Four updates to a rollout: with two, and 72 steps, one seed in five learnt no front with PPO, and
# bands from such seeds (101 to 110) would have let anything pass.
SETTINGS = replace(QUICK, sft_steps=300, ppo_steps=120, update_iters=4, eval_interval=48)
SEEDS = tuple(range(201, 209))
# Of the run that is held against the bands: none of SEEDS, and nothing was chosen on it.
RUN_SEED = 200
# Half widths must not be below the steps in which these move: one dominated point, two neighbours
# of eleven that change places in the ranking.
FLOORS = {"dominated": 1.0, "Spearman": 0.01}
WORKERS = 2  # of one thread each, while recording


def compare(reference: dict[str, Any], numbers: dict[str, float]) -> list[Check]:
    """One check for every number of a reference.

    Raises:
        CannotRun: a number is missing on either side.
    """
    name = f"front/{reference['name']}"
    bands = reference["values"]["mean"]
    if set(bands) != set(numbers):
        odd = ", ".join(sorted(set(bands) ^ set(numbers)))
        raise CannotRun(f"{name}: recorded and measured are not the same numbers: {odd}")
    return [
        Check(name, key, mean, numbers[key], reference["tolerances"][key])
        for key, mean in bands.items()
    ]


def _settings_of(reference: dict[str, Any], path: Path) -> tuple[MiniatureSettings, int]:
    values = reference["values"]
    try:
        settings = MiniatureSettings(**values["settings"])
    except TypeError as error:
        raise CannotRun(f"{path}: recorded with other settings ({error}): record anew") from None
    if values["run_seed"] in values["seeds"]:
        raise CannotRun(f"{path}: seed {values['run_seed']} is among the recorded ones")
    return settings, values["run_seed"]


def run(options: Options) -> list[Check]:
    """Train on one seed, with the recorded settings, and hold its fronts against the bands.

    Raises:
        CannotRun: no reference that fits.
    """
    paths = [options.references / "front" / f"{name}.json" for name in ALGORITHMS]
    for path in paths:
        if not path.exists():
            raise CannotRun(f"{path}: no reference; record it first")
    references = [read_reference(path) for path in paths]
    wanted = [_settings_of(*pair) for pair in zip(references, paths, strict=True)]
    if wanted[0] != wanted[1]:
        raise CannotRun(f"{paths[0]} and {paths[1]} were not recorded together: record both anew")
    settings, seed = wanted[0]
    root = options.work_dir / f"seed-{seed}"
    numbers = train_fronts(seed, settings, root, progress=options.progress)
    return [check for reference in references for check in _checks(reference, numbers)]


def _checks(reference: dict[str, Any], numbers: Numbers) -> list[Check]:
    return compare(reference, numbers[reference["name"]])


def _worker(seed: int, settings: MiniatureSettings, root: Path) -> Numbers:
    import torch

    torch.set_num_threads(1)
    return train_fronts(seed, settings, root / f"seed-{seed}", progress=False)


def _measure_seeds(work_dir: Path) -> list[Numbers]:
    spawn = multiprocessing.get_context("spawn")
    count = len(SEEDS)
    with ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
        return list(pool.map(_worker, SEEDS, [SETTINGS] * count, [work_dir] * count))


def record(options: Options) -> list[Path]:
    """Train on all of ``SEEDS``, ``WORKERS`` at a time, and write means and bands."""
    folder = options.references / "front"
    for name in ALGORITHMS:
        check_recordable(folder / f"{name}.json")
    found = _measure_seeds(options.work_dir)
    checks = sum(len(numbers) for numbers in found[0].values())
    return [_write(folder / f"{name}.json", found, checks) for name in ALGORITHMS]


def _write(path: Path, found: list[Numbers], checks: int) -> Path:
    algorithm = path.stem
    names = list(found[0][algorithm])
    measured = {name: [numbers[algorithm][name] for numbers in found] for name in names}
    bands = joint_bands(measured, checks, FLOORS)
    return write_reference(
        path,
        suite="front",
        what=f"Panacea-{algorithm.upper()} on a small miniature: indicators, and J at every λ",
        source=f"trained with this package on the seeds {SEEDS[0]} to {SEEDS[-1]}",
        values={
            "settings": asdict(SETTINGS),
            "seeds": list(SEEDS),
            "run_seed": RUN_SEED,
            "reference_point": list(REFERENCE_POINTS[algorithm]),
            "mean": {name: band.mean for name, band in bands.items()},
            "std": {name: band.std for name, band in bands.items()},
            "measured": measured,
        },
        tolerances={name: band.half_width for name, band in bands.items()},
        reason=REASON.format(count=len(SEEDS), checks=checks, percent=100 * FALSE_ALARM),
    )


REASON = (
    "Each tolerance is the half width of a prediction interval for one further seed, "
    "t * s * sqrt(1 + 1/n) with n = {count} seeds, s their standard deviation and t Student's "
    "two-sided quantile with n - 1 degrees of freedom at 1 - {percent:g} % / {checks}; {checks} is "
    "the number of checks in ppo.json and dpo.json together. So a correct program on another seed "
    "falls out anywhere in at most {percent:g} % of all cases if the numbers are normal "
    "(Bonferroni; they are correlated, so it is less). The run's own seed is fixed: on one "
    "machine it falls out always or never, and a change that leaves everything as it was but "
    "the random numbers counts as another seed. Floors: 1 dominated point, 0.01 of Spearman, the "
    "smallest steps of these two."
)
