"""Whether the launchers start, train and finish on a GPU; ``launch.py small`` is the small size."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from part import Row, device_of, run_part

ROOT = Path(__file__).resolve().parents[2]


def launched(script: str, folder: Path, output: Path | None, words: list[str]) -> Row:
    """One launcher, to its end; ``output`` is the folder of its run, or its default."""
    command = ["bash", str(ROOT / "bash" / f"{script}.sh"), "--runs", str(folder), *words]
    command += [] if output is None else ["--output_dir", str(output)]
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHON": sys.executable},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    row: Row = {
        "launcher": script,
        "flags": " ".join(words),
        "seconds": time.perf_counter() - begin,
    }
    row["right"] = done.returncode == 0
    if output is not None:
        record, metrics = output / "run.json", output / "metrics.jsonl"
        finished = record.exists() and bool(json.loads(record.read_text()).get("finished_at"))
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        losses = [json.loads(line) for line in lines if "loss" in line]
        last = losses[-1] if losses else {}
        row["last loss"] = next((v for k, v in last.items() if k.endswith("loss")), None)
        row["right"] = row["right"] and finished
    if not row["right"]:
        row["error"] = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return row


def miniatures(args: argparse.Namespace) -> Iterator[Row]:
    """DPO at every stage and in both precisions, PPO with a critic on a reward model."""
    precision = ["--bf16", "true"] if device_of() == "cuda" else []
    if args.tiny:
        jobs = [("panacea_dpo", [])]
    else:
        stages = [["--zero_stage", str(stage), *precision] for stage in range(4)]
        jobs = [("panacea_dpo", ["--tf32", "true"]), *(("panacea_dpo", s) for s in stages)]
        jobs += [("panacea_ppo", stages[0]), ("panacea_ppo", stages[3])]
    with tempfile.TemporaryDirectory() as folder:
        for script, words in jobs:
            output = Path(folder) / "-".join([script, *words]).replace("--", "")
            words = ["--size", "miniature", "--max_steps", "6", *words]
            yield launched(script, Path(folder) / "runs", output, words)


def small(args: argparse.Namespace) -> Iterator[Row]:
    """One launcher, which makes what it needs; a few steps of it where it is tiny."""
    size, steps = ("miniature", "4") if args.tiny else ("small", "100")
    words = ["--size", size, "--max_steps", steps]
    words += ["--bf16", "true"] if device_of() == "cuda" else []
    yield launched("panacea_dpo", Path(args.output_dir) / f"runs-{size}", None, words)


if __name__ == "__main__":
    if sys.argv[1:2] == ["small"]:
        sys.argv.pop(1)
        raise SystemExit(run_part("small", "The small size, Panacea-DPO", small))
    raise SystemExit(run_part("launch", "Launchers in the miniature, six steps each", miniatures))
