"""Repeat the quickstart's fronts over fresh seeds, with baselines and ablations.

Every (seed, job) is a process of its own with one thread, as many at a time as there are
cores; a finished one leaves its fronts in ``<output_dir>/seed-<n>/<job>.json`` and is not run
again, so an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.baselines.discrete_policies import grid_variants
from safe_rlhf_panacea.baselines.fixed_scaling import FACTORS
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import train_unfinished
from safe_rlhf_panacea.configs.command_line import ArgumentParser
from safe_rlhf_panacea.configs.kinds import filled, positive_int, seed_int
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.loading import Method
from safe_rlhf_panacea.experiments.table import OBJECTIVES, settings
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, read_json
from safe_rlhf_panacea.miniature.report import severity_table
from safe_rlhf_panacea.miniature.stages import CALIBRATION, Judge, Miniature, Results
from safe_rlhf_panacea.preference import preference_grid

PROGRAM = "python eval/front_benchmark.py"
# Hyperparameters were chosen on the seeds 0 to 9 and the prompts of the `tune` split.
FIRST_FRESH_SEED = 1000
# The quickstart's without the fronts on its way, which change nothing in the training.
SETTINGS = {
    "benchmark": settings("miniature", "benchmark"),
    "quick": settings("miniature", "quick", eval_interval=0),
    "smoke": settings("miniature", "smoke"),
}
KINDS = ("main", "discrete", "ablations", "fixed")
JOBS = [f"{algorithm}-{kind}" for kind in KINDS for algorithm in ("ppo", "dpo")]
DISCRETE_STEP = 0.25  # of λ of the discrete policies: five for m = 2


def prepare(miniature: Miniature) -> None:
    """Make corpus, SFT model, reward models and their calibration, for all jobs of a seed."""
    miniature.build_world()
    runs = {str(miniature.sft): miniature.train_sft}
    for name in OBJECTIVES:
        runs[str(miniature.reward(name))] = lambda name=name: miniature.train_reward(name)
    train_unfinished(runs, overwrite=False)
    Judge(miniature).calibrate()


class Arms:
    """Trains and evaluates arms; every result is named ``<algorithm>/<arm>/<view>``.

    Views: ``model`` (reward models, or accuracy for DPO) and ``true`` (the corpus's own
    scores) or ``nats`` (DPO's own objective) on the full grid; ``model5`` and so on at the five λ
    of the discrete policies.
    """

    def __init__(self, miniature: Miniature, algorithm: str, split: str) -> None:
        miniature.take_up()
        self.miniature, self.algorithm, self.split = miniature, algorithm, split
        self.judge = Judge(miniature)
        self.grid = preference_grid(len(OBJECTIVES), miniature.settings.grid_step)
        self.five = preference_grid(len(OBJECTIVES), DISCRETE_STEP)
        self.steps: int = getattr(miniature.settings, f"{algorithm}_steps")
        self.results: Results = {}
        self.severity: list[dict[str, Any]] = []  # of Panacea-PPO's answers

    def run(self, kind: str) -> None:
        """Train and evaluate the arms of a kind of job."""
        each = self.steps // len(OBJECTIVES)  # as many as Panacea's in all
        if kind == "main":
            self.panacea("panacea", five=True)
            soups = self.baseline("soups", each, vertices(OBJECTIVES), "rewarded_soups")
            self.evaluate("soups", soups, full=True, five=True)
        elif kind == "discrete":
            policies = self.baseline("discrete", each, grid_variants(self.five))
            self.evaluate("discrete", policies, full=False, five=True)
        elif kind == "ablations":
            per_batch = ["--preference_scope", "batch", "--preference_sampler", "uniform"]
            self.panacea("per-batch", per_batch)
            self.panacea("tche", ["--aggregation", "tche"])
        else:
            for value in FACTORS:
                self.panacea(f"fixed-{value:g}", ["--fixed_scaling", str(value)])

    def panacea(self, arm: str, extra: Sequence[str] = (), *, five: bool = False) -> None:
        """Panacea, with further flags for an ablation."""
        name = f"{self.algorithm}-{arm}"
        folder = self.miniature.train_panacea(self.algorithm, name, self.steps, extra)
        self.evaluate(arm, self.judge.method(folder), full=True, five=five)

    def baseline(
        self, arm: str, each: int, variants: Any, method: str = "discrete_policies"
    ) -> Method:
        """A method of several adapters, each trained for so many steps."""
        name = f"{self.algorithm}-{arm}"
        folders = self.miniature.train_baseline(self.algorithm, name, each, variants)
        return self.judge.method(folders, method)

    def evaluate(self, arm: str, method: Method, *, full: bool, five: bool) -> None:
        """Evaluate on the full grid and at the five λ, as asked for, in one pass."""
        name = f"{self.algorithm}/{arm}"
        grids = [self.grid] * full + [self.five] * five
        grid = grids[0] if len(grids) == 1 else torch.cat(grids).unique(dim=0)
        found, measured = self.judge.results(self.algorithm, method, grid, name, self.split)
        if name == "ppo/panacea":
            self.severity = severity_table(measured.responses())
        second = "true" if self.algorithm == "ppo" else "nats"
        for view, result in zip(("model", second), found.values(), strict=True):
            if full:
                self.results[f"{name}/{view}"] = result.at(self.grid)
            if five:
                self.results[f"{name}/{view}5"] = result.at(self.five)


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
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    text = "steps: the benchmark's (default), the quickstart's, or a few of everything"
    parser.add_argument("--settings", choices=[*SETTINGS], default="benchmark", help=text)
    parser.add_argument("--output_dir", type=filled, help="default: runs/front-<settings>")
    parser.add_argument("--workers", type=positive_int, default=os.cpu_count())
    parser.add_argument("--split", choices=("eval", "tune"), default="eval", help="PPO prompts")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "JOB"), help=argparse.SUPPRESS)
    return parser


def run_one(args: argparse.Namespace, seed: int, job: str) -> None:
    """The work of one process."""
    root, start = Path(args.output_dir) / f"seed-{seed}", time.perf_counter()
    miniature = Miniature(root=root, seed=seed, settings=SETTINGS[args.settings], progress=False)
    if job == "prepare":
        prepare(miniature)
        return
    algorithm, kind = job.split("-")
    arms = Arms(miniature, algorithm, args.split)
    arms.run(kind)
    fronts = {name: result.to_json() for name, result in arms.results.items()}
    record = {"settings": args.settings, "fronts": fronts}
    record["seconds"] = round(time.perf_counter() - start, 1)
    record |= {"severity_table": arms.severity} if arms.severity else {}
    atomic_write_json(root / f"{job}.json", record)


def launch(args: argparse.Namespace, seed: int, job: str) -> bool:
    """Start a process for one job and wait for it; whether it succeeded."""
    root = Path(args.output_dir) / f"seed-{seed}"
    root.mkdir(parents=True, exist_ok=True)
    if (root / (CALIBRATION if job == "prepare" else f"{job}.json")).exists():
        return True
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
    collected: dict[int, dict[str, dict]] = {seed: {} for seed in seeds}
    severity = {}
    for seed in seeds:
        paths = [Path(args.output_dir) / f"seed-{seed}" / f"{job}.json" for job in args.jobs]
        for path in filter(Path.exists, paths):
            record = read_json(path)
            if record.get("settings", args.settings) != args.settings:
                raise UserError(
                    f"{path} is of --settings {record['settings']}: take another --output_dir"
                )
            collected[seed] |= record["fronts"]
            if "severity_table" in record:
                severity[seed] = record["severity_table"]
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
