"""The port and Safe-RLHF on the same work: steps per second, memory, backbones.

The same model, data, batch, length, precision and threads; ``plain`` trains all weights for one
objective, ``panacea`` an adapter for two. Every measurement is a process of its own, the two
sides in turn, with the warm-up left out. Without Safe-RLHF only the port is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safe_rlhf_panacea.base.arguments import ArgumentParser, filled, positive_int, seed_int
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.io import atomic_write_json

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "python eval/benchmarks/port_against_safe_rlhf.py"
ONE_SIDE = Path(__file__).with_name("one_side.py")
SIDES = ("port", "safe_rlhf")
# Width, layers; batches of the quickstart's DPO and PPO.
SIZES = {"quickstart": (64, 3), "wide": (256, 6)}
BATCHES = {"dpo": 16, "ppo": 64}
# The port is to be so many times as fast, in each trainer, on a CPU.
TARGETS = {"dpo": 1.5, "ppo": 2.0}


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(PROGRAM, __doc__ or "", f"{PROGRAM} --threads 2 --repeats 3")
    for flag, choices in (
        ("sizes", [*SIZES]),
        ("algorithms", [*BATCHES]),
        ("trainers", ["plain", "panacea"]),
    ):
        parser.add_argument(f"--{flag}", nargs="+", choices=choices, default=choices)
    parser.add_argument("--steps", type=positive_int, default=20, help="measured, per process")
    parser.add_argument("--warmup", type=positive_int, default=3, help="steps left out")
    parser.add_argument("--repeats", type=positive_int, default=3, help="processes per side")
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--batch_size", type=positive_int, help="default: 16 for DPO, 64 for PPO")
    parser.add_argument("--seed", type=seed_int, default=0)
    parser.add_argument("--output", type=filled, help="write all measurements to this JSON file")
    return parser


def run_one_side(job: dict[str, Any], threads: int) -> Any:
    """Prepare the work of a job, or measure one side of it, in a process of its own.

    Raises:
        UserError: it failed; with the end of what it said.
    """
    environment = {
        **os.environ,
        "PANACEA_BASE": job["side"],
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(ONE_SIDE), json.dumps(job)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    if done.returncode:
        raise UserError(
            f"{job['side']}, {job.get('algorithm', 'work')}: {done.stderr.strip()[-600:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure, and the range of the speed."""
    names = ("steps_per_second", "peak_mib", "run_mib", "backbones", "mean_generated_length")
    values = {name: [run[name] for run in runs if name in run] for name in names}
    result = {name: statistics.median(found) for name, found in values.items() if found}
    speeds = values["steps_per_second"]
    return {**result, "slowest": min(speeds), "fastest": max(speeds)}


def line(label: str, side: str, found: dict[str, Any], ratio: str) -> str:
    """A line of the table."""
    speed = f"{found['steps_per_second']:.2f} ({found['slowest']:.2f}-{found['fastest']:.2f})"
    length = found.get("mean_generated_length")
    return (
        f"{label:<24}{side:<11}{speed:<20}{found['peak_mib']:>8.0f}{found['run_mib']:>9.0f}"
        f"{found['backbones']:>6.0f}{'-' if length is None else f'{length:.1f}':>9}  {ratio}"
    )


def verdict(algorithm: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """How many times as fast the port is, and whether that is enough."""
    ratio = ours["steps_per_second"] / theirs["steps_per_second"]
    less = ours["peak_mib"] <= theirs["peak_mib"]
    speed = "ok" if ratio >= TARGETS[algorithm] else f"below {TARGETS[algorithm]:g}"
    return f"{ratio:.2f}x ({speed}), {'no more' if less else 'MORE'} memory"


def header(args: argparse.Namespace, sides: Sequence[str]) -> str:
    """What was measured on what, and the heads of the columns."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    said = f"{args.steps} steps, {args.repeats} processes per side, {args.threads} threads"
    heads = (
        f"{'size, trainer':<24}{'side':<11}{'steps/s (range)':<20}{'peak MiB':>8}{'of run':>9}"
        f"{'bb':>6}{'tokens':>9}"
    )
    why = "" if len(sides) > 1 else "\nSafe-RLHF is not installed: the port alone."
    return f"{said}; {machine}{why}\n\n{heads}\n{'-' * len(heads)}"


def run_jobs(args: argparse.Namespace, sides: Sequence[str], work: str) -> list[dict[str, Any]]:
    """Measure everything, printing as it goes."""
    results = []
    for size in args.sizes:
        model = dict(size=size, width=SIZES[size][0], layers=SIZES[size][1], seed=args.seed)
        model |= dict(work=work, side="port")
        max_length = run_one_side({**model, "prepare": True}, args.threads)
        for algorithm in args.algorithms:
            for trainer in args.trainers:
                job = {
                    **dict(model, algorithm=algorithm, trainer=trainer, max_length=max_length),
                    **dict(steps=args.steps, warmup=args.warmup, prepare=False),
                    "batch_size": args.batch_size or BATCHES[algorithm],
                }
                runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
                for _ in range(args.repeats):
                    for side in sides:
                        runs[side].append(run_one_side({**job, "side": side}, args.threads))
                found = {side: summary(runs[side]) for side in sides}
                ratio = verdict(algorithm, *found.values()) if len(sides) > 1 else ""
                for side in sides:
                    label = f"{size}, {trainer} {algorithm}"
                    print(line(label, side, found[side], ratio * (side == "port")), flush=True)
                results.append({**job, "runs": runs, "summary": found, "verdict": ratio})
    return results


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the file."""
    args = build_parser().parse_args(argv)
    sides = SIDES if importlib.util.find_spec("safe_rlhf") is not None else SIDES[:1]
    print(header(args, sides), flush=True)
    with tempfile.TemporaryDirectory() as work:
        results = run_jobs(args, sides, work)
    if args.output:
        atomic_write_json(Path(args.output), {"args": vars(args), "results": results})


if __name__ == "__main__":
    main()
