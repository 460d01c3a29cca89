"""The launchers' small size from beginning to end: a real model and real pairs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from part import Row, device_of, run_part

ROOT = Path(__file__).resolve().parents[2]


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """One launcher, which makes what it needs; a few steps of it where it is tiny."""
    size = "miniature" if args.tiny else "small"
    words = ["--size", size, "--runs", str(Path(args.output_dir) / f"runs-{size}")]
    words += ["--max_steps", "4"] if args.tiny else ["--max_steps", "100"]
    words += ["--bf16", "true"] if device_of() == "cuda" else []
    begin = time.perf_counter()
    command = ["bash", str(ROOT / "bash" / "panacea_dpo.sh"), *words]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=False)
    seconds = time.perf_counter() - begin
    yield {"command": "bash bash/panacea_dpo.sh", "seconds": seconds, "right": not done.returncode}


if __name__ == "__main__":
    raise SystemExit(run_part("small", "The small size, Panacea-DPO", rows))
