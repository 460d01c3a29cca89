"""Whether the launchers start, train and finish: precision, optimiser and ZeRO stages on a GPU."""

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


def launched(script: str, folder: Path, words: list[str]) -> Row:
    """One launcher in the miniature, to its end."""
    output = folder / "-".join([script, *words]).replace("--", "")
    command = ["bash", str(ROOT / "bash" / f"{script}.sh"), "--size", "miniature"]
    command += ["--runs", str(folder / "runs"), "--output_dir", str(output), "--max_steps", "6"]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    record, metrics = output / "run.json", output / "metrics.jsonl"
    finished = record.exists() and bool(json.loads(record.read_text()).get("finished_at"))
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    losses = [json.loads(line) for line in lines if "loss" in line]
    last = losses[-1] if losses else {}
    row: Row = {
        "launcher": script,
        "flags": " ".join(words),
        "seconds": time.perf_counter() - begin,
        "last loss": next((v for k, v in last.items() if k.endswith("loss")), None),
        "right": done.returncode == 0 and finished,
    }
    if not row["right"]:
        row["error"] = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return row


def rows(args: argparse.Namespace) -> Iterator[Row]:
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
            yield launched(script, Path(folder), words)


if __name__ == "__main__":
    raise SystemExit(run_part("launch", "Launchers in the miniature, six steps each", rows))
