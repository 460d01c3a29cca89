"""Repeat the quickstart's fronts over fresh seeds, with baselines and ablations.

Every (seed, job) is a process of its own with one thread, as many at a time as there are
cores; a finished one leaves its fronts in ``<output_dir>/seed-<n>/<job>.json`` and is not run
again, so an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from front_benchmark_arms import JOBS, prepare, run_job

from safe_rlhf_panacea.configs.command_line import ArgumentParser
from safe_rlhf_panacea.configs.kinds import filled, positive_int, seed_int
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.experiments.sizes import settings
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.miniature.stages import CALIBRATION, Miniature

PROGRAM = "python eval/front_benchmark.py"
# Hyperparameters were chosen on the seeds 0 to 9 and the prompts of the `tune` split.
FIRST_FRESH_SEED = 1000
# The quickstart's without the fronts on its way, which change nothing in the training.
SETTINGS = {
    "benchmark": settings("miniature", "benchmark"),
    "quick": settings("miniature", "quick", eval_interval=0),
    "smoke": settings("miniature", "smoke"),
}


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Repeat the quickstart's fronts over fresh seeds: Panacea, Rewarded Soups, discrete
        policies and the ablations, under the reward models and under the true scores.
        """,
        f"{PROGRAM} --seeds 5",
    )
    parser.add_argument("--seeds", type=positive_int, default=5, help="how many seeds")
    parser.add_argument("--first_seed", type=seed_int, default=FIRST_FRESH_SEED)
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS], default=[*JOBS])
    text = (
        "steps and evaluations: the benchmark's (default), the quickstart's, or a few of everything"
    )
    parser.add_argument("--settings", choices=[*SETTINGS], default="benchmark", help=text)
    parser.add_argument("--output_dir", type=filled, help="default: runs/front-<settings>")
    parser.add_argument("--workers", type=positive_int, default=os.cpu_count())
    parser.add_argument("--split", choices=("eval", "tune"), default="eval", help="PPO prompts")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "JOB"), help=argparse.SUPPRESS)
    return parser


def miniature_of(args: argparse.Namespace, seed: int) -> Miniature:
    """The miniature of a seed."""
    return Miniature(
        root=Path(args.output_dir) / f"seed-{seed}",
        seed=seed,
        settings=SETTINGS[args.settings],
        progress=False,
    )


def run_one(args: argparse.Namespace, seed: int, job: str) -> None:
    """The work of one process."""
    miniature = miniature_of(args, seed)
    miniature.root.mkdir(parents=True, exist_ok=True)
    if job == "prepare":
        prepare(miniature)
        return
    start = time.perf_counter()
    arms = run_job(miniature, job, args.split)
    fronts = {name: result.to_json() for name, result in arms.results.items()}
    record = {"settings": args.settings, "fronts": fronts}
    record["seconds"] = round(time.perf_counter() - start, 1)
    record |= {"severity_table": arms.severity} if arms.severity else {}
    atomic_write_json(miniature.root / f"{job}.json", record)


def launch(args: argparse.Namespace, seed: int, job: str) -> bool:
    """Start a process for one job and wait for it; whether it succeeded."""
    root = miniature_of(args, seed).root
    if (root / (CALIBRATION if job == "prepare" else f"{job}.json")).exists():
        return True
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--output_dir", args.output_dir, "--split", args.split]
    command += ["--settings", args.settings, "--one", str(seed), job]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(root / f"{job}.log", "w", encoding="utf-8") as log:
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    outcome = "done" if code == 0 else f"FAILED, see {log.name}"
    print(f"seed {seed}  {job:14s} {outcome}", flush=True)
    return code == 0


def collect(
    args: argparse.Namespace, seeds: list[int]
) -> tuple[dict[int, dict[str, dict]], dict[int, list[dict]]]:
    """All fronts, by seed and name, and the refusals of Panacea-PPO by seed."""
    collected: dict[int, dict[str, dict]] = {}
    severity = {}
    for seed in seeds:
        fronts: dict[str, dict] = {}
        for job in args.jobs:
            path = miniature_of(args, seed).root / f"{job}.json"
            if path.exists():
                record = json.loads(path.read_text(encoding="utf-8"))
                if record.get("settings", args.settings) != args.settings:
                    raise UserError(
                        f"{path} is of --settings {record['settings']}: take another --output_dir"
                    )
                fronts |= record["fronts"]
                severity |= {seed: record["severity_table"]} if "severity_table" in record else {}
        collected[seed] = fronts
    return collected, severity


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then print and write the tables."""
    args = build_parser().parse_args(argv)
    args.output_dir = args.output_dir or f"runs/front-{args.settings}"
    if args.one:
        run_one(args, int(args.one[0]), args.one[1])
        return
    from front_benchmark_tables import benchmark_tables

    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    start = time.perf_counter()
    with ThreadPoolExecutor(args.workers) as pool:
        ready = list(pool.map(lambda seed: launch(args, seed, "prepare"), seeds))
        usable = [seed for seed, ok in zip(seeds, ready, strict=True) if ok]
        work = [(seed, job) for job in args.jobs for seed in usable]
        done = list(pool.map(lambda item: launch(args, *item), work))
    page, numbers = benchmark_tables(*collect(args, usable), SETTINGS[args.settings])
    folder = Path(args.output_dir)
    atomic_write_json(folder / "benchmark.json", {"seeds": usable, **numbers})
    atomic_write_text(folder / "benchmark.txt", page + "\n")
    print(f"\n{page}\n\n{time.perf_counter() - start:.0f} s; written to {folder}")
    if len(usable) < len(seeds) or not all(done):
        raise UserError("some jobs failed: the tables leave them out (see the lines above)")


if __name__ == "__main__":
    main()
