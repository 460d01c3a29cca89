"""What the parts share: flags, the device, and the two files that each leaves."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.inputs import MODELS
from benchmarks.measuring import machine

from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag
from safe_rlhf_panacea.configs.kinds import filled
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.show.tables import Table

__all__ = ["MODELS", "Row", "device_of", "run_part"]

Row = dict[str, Any]


def device_of() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def run_part(name: str, text: str, rows_of: Callable[[argparse.Namespace], Any]) -> int:
    """A part and its files; 1 where a row's ``right`` says that something is not right."""

    @one_line_errors
    def main() -> int:
        program = f"bash eval/on_a_gpu.sh {name}"
        parser = ArgumentParser(program, text, program)
        parser.add_argument("--output_dir", type=filled, required=True)
        add_flag(parser, "--tiny", False, "sizes for a CPU")
        args = parser.parse_args()
        begin, rows = time.perf_counter(), []
        for row in rows_of(args):
            rows.append(row)
            say(", ".join(f"{key} {value}" for key, value in row.items()))
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        about, seconds = machine(device_of()), time.perf_counter() - begin
        found = {"machine": about, "tiny": args.tiny, "seconds": seconds}
        atomic_write_json(folder / f"{name}.json", {**found, "rows": rows})
        head = f"{text} ({about}; {seconds:.0f} s)"
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = Table("", columns, [[*map(row.get, columns)] for row in rows]).markdown()
        atomic_write_text(folder / f"{name}.md", f"{head}\n\n{table}\n")
        return int(not all(row.get("right", True) for row in rows))

    return main()
