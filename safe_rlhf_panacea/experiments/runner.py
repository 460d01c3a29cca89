"""Runs stages of the table: skips what is finished, and goes on with what was interrupted."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.experiments.table import (
    RUNS,
    Size,
    Stage,
    fill,
    size_of,
    stages_by_name,
    stages_of,
)
from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.runs.run_folder import is_finished

ROOT = Path(__file__).resolve().parents[2]
# The scripts that run many stages, and what they end with.
ENDS_WITH = {"reproduce_paper.sh": "report.html", "real_fronts.sh": "comparison"}


def value_of(flag: str, words: Sequence[str], default: str = "") -> tuple[str, list[str]]:
    """The value that counts of a flag in a command line, and the words that are not of this flag.

    A flag without its value is a ``UserError``.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag, default=default)
    found, others = read_known(parser, words)
    return getattr(found, flag.removeprefix("--")), others


def read_known(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """``parse_known_args``, whose refusals are a ``UserError``."""
    try:
        return parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from None


def _in_order(path: Path) -> list[tuple[int, str]]:
    """A key that sorts step-24 before step-100."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


@dataclass(frozen=True)
class Reproduction:
    """A folder of runs that belong together, and what the user says of all of them."""

    runs: Path
    size_name: str  # "full" and the like
    passed: tuple[str, ...] = ()  # the user's flags, for the programs that train; the last one wins
    machines: tuple[str, ...] = ()  # --hostfile and --num_gpus as they were given

    @cached_property
    def size(self) -> Size:
        """Models, data and steps of the size."""
        return size_of(self.size_name)

    @cached_property
    def values(self) -> dict[str, Any]:
        """What the names in curly brackets stand for in rows and sizes."""
        own = {
            name: value.replace("{runs}", str(self.runs)) if isinstance(value, str) else value
            for name, value in self.size.values.items()
        }
        defaults = {"seed": "42", "aggregation": "ls"}
        given = {name: value_of(f"--{name}", self.passed, v)[0] for name, v in defaults.items()}
        return {**own, "runs": self.runs, **given}

    def filled(self, text: str) -> list[str]:
        """The words of a text of the tables."""
        return fill(shlex.split(text), self.values)

    def matches(self, pattern: str) -> list[Path]:
        """Folders below ``runs``, without what interruptions left."""
        found = [path for path in self.runs.glob(pattern) if path.is_dir()]
        return sorted((p for p in found if ".interrupted-" not in p.name), key=_in_order)

    def _size_flags(self, stage: Stage) -> str:
        """The size's flags for a stage, not filled in; empty where the size has none."""
        if stage.evaluation:
            return self.size.evaluations.get(stage.evaluation, "")
        return self.size.flags.get(stage.key, "")

    def flags(self, stage: Stage) -> list[str]:
        """The flags of a stage without a launcher: its own, the size's, the output folder."""
        words: list[str] = []
        for word in shlex.split(f"{stage.flags} {self._size_flags(stage)}"):
            if "*" in word:
                words += map(str, self.matches(word.removeprefix("{runs}/")))
            else:
                words += fill([word], self.values)
        if stage.output:
            words += ["--output_dir", str(self.runs / stage.output), "--overwrite"]
        return words

    def folder(self, stage: Stage) -> Path:
        """The folder of a launcher's run; that of Panacea-DPO is named by its aggregation."""
        if stage.launcher == "panacea_dpo.sh":
            return self.runs / f"panacea-dpo-{self.values['aggregation']}"
        return self.runs / stage.name

    def launcher_flags(self, stage: Stage, table: Sequence[str]) -> tuple[list[str], list[str]]:
        """The flags of a launcher's program: the paper's, and those of size and user after them."""
        paper = [*table, *self.filled(size_of("full").flags[stage.key])]
        paper += ["--output_dir", str(self.folder(stage))]
        own = "" if self.size_name == "full" else self.size.flags[stage.key]
        return paper, [*self.filled(own), *self.passed]

    def command(self, stage: Stage) -> list[str]:
        """The command that starts a stage."""
        if stage.launcher:
            script = ["bash", str(ROOT / "bash" / stage.launcher), "--size", self.size_name]
            own = ["--runs", str(self.runs), *self.machines, *self.passed]
            return [*script, *own, *self.filled(stage.flags)]
        is_file = stage.program.endswith(".py")
        program = [str(ROOT / stage.program)] if is_file else ["-m", stage.program]
        return [sys.executable, *program, *self.flags(stage)]

    def is_there(self, stage: Stage) -> bool:
        """Whether a stage was finished before, so that others can use what it made."""
        if stage.makes:
            return (self.runs / stage.makes).is_file()
        return bool(stage.launcher) and is_finished(self.runs / stage.name)

    def prepare(self, stage: Stage) -> None:
        """Run the unfinished stages that a stage needs, with the launchers' own flags."""
        alone = replace(self, passed=("--seed", self.values["seed"]), machines=())
        for name in filter(self.size.prepares.__contains__, stage.needs):
            needed = stages_by_name()[name]
            if not self.is_there(needed):
                print(f"== {name} is missing: made first", file=sys.stderr, flush=True)
                alone.go_on(needed)

    def go_on(self, stage: Stage) -> None:
        """Run a stage; a launcher resumes what an interruption left."""
        run(self.command(stage) + (["--go_on"] if stage.launcher else []))

    def stages(self, rows: Sequence[Stage]) -> Iterator[Stage]:
        """The stages in order; a row with ``each`` becomes one for every folder that is there."""
        for row in rows:
            if row.name in self.size.published:
                continue
            if not row.each:
                yield row
            for folder in self.matches(row.each) if row.each else ():
                name, path = folder.name, shlex.quote(str(folder))
                yield row.filled({"folder": path, "each": name, "words": name.replace("-", " ")})

    def run(self, script: str, only: str | None = None, dry_run: bool = False) -> None:
        """Run what is left of a script's stages, or ``only`` one, done or not.

        A ``UserError`` tells of a stage that there is not, that failed, that the size does not
        have, or whose data file is missing.
        """
        rows = stages_of(script, on_demand=only is not None)
        self._check(script, rows, () if dry_run else [r for r in rows if only in (None, r.name)])
        count, left = 0, []
        for count, stage in enumerate(self.stages(rows), start=1):
            if only not in (None, stage.name):
                continue
            if dry_run and self.passed and stage.launcher:
                # A dry run reads further flags as the training would.
                run([*self.command(stage), "--dry_run"], stdout=subprocess.DEVNULL)
            marker = self.runs / "done" / stage.name
            is_done = only is None and (marker.exists() or self.is_there(stage))
            if not is_done:
                left.append(stage.name)
            if dry_run:
                continue
            print(f"[{count}] {stage.name}{': done already' if is_done else ''}", flush=True)
            if not is_done:
                start = time.monotonic()
                self.go_on(stage)
                atomic_write_text(marker, f"{round(time.monotonic() - start)} seconds\n")
        if only and not left:
            raise UserError(f"--only {only}: no such stage")
        if dry_run:
            print(f"{len(left)} of {count} stages are left to do: {' '.join(left)}")
        elif only is None:
            print(f"All {count} stages are done: {self.runs / ENDS_WITH[script]}")

    def _check(self, script: str, rows: Sequence[Stage], started: Sequence[Stage]) -> None:
        """Refuse stages that the size lacks, and missing data before hours are spent on others."""
        for stage in rows:
            own = self.size.evaluations if stage.evaluation else self.size.flags
            if (stage.evaluation or stage.settings or "") not in ("", *own):
                having = [name for name in RUNS if stage.settings in size_of(name).flags]
                other = " or ".join(f"--size {name}" for name in having)
                raise UserError(f"{script} has no --size {self.size_name}: take {other}")
        for stage in started:
            for name, path in self.size.files.items():
                if f"{{{name}}}" in self._size_flags(stage) and not path.is_file():
                    raise UserError(f"{path} is missing: the stage {stage.name} needs it")


def run(command: Sequence[str], **kwargs: Any) -> None:
    """Run a program to its end; one that fails ends this one, with its own message and code."""
    code = subprocess.run(command, check=False, **kwargs).returncode
    if code:
        raise SystemExit(code)
