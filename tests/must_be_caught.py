"""One-line changes to the package that its tests must catch: run by hand, and before a release.

    python tests/must_be_caught.py [WORD ...]

Without words it tries every change of ``must_be_caught.txt``, with words those whose file or tests
contain one of them. Every change is made to a temporary copy of the checkout, and the tests that
are named with it run there: one of them has to fail. A change is a block of lines as in a
difference: the file below the package, its old text behind ``-``, the new text behind ``+``, and
the test files. It takes minutes; it leaves with 1 where a change passed unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "safe_rlhf_panacea"
TABLE = Path(__file__).with_suffix(".txt")
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist", "wandb")


def left_out(folder: str, names: list[str]) -> set[str]:
    """What a copy of the checkout does without; of folders named ``runs``, the one at its root."""
    found = shutil.ignore_patterns(*LEFT_OUT)(folder, names)
    return found | {"runs"} if Path(folder) == ROOT else found


class Change(NamedTuple):
    """One row of the table; ``tests`` are paths below the checkout."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        shown = self.new.strip().splitlines() or ["(nothing)"]
        return f"{self.file}: {self.old.strip().splitlines()[0]}  ->  {shown[0]}"


def read_changes() -> list[Change]:
    """The table."""
    changes = []
    for block in TABLE.read_text(encoding="utf-8").strip().split("\n\n"):
        file, *lines = block.splitlines()
        old = [line[1:] for line in lines if line.startswith("-")]
        new = [line[1:] for line in lines if line.startswith("+")]
        tests = [line for line in lines if line[0] not in "-+"]
        changes.append(Change(file, "\n".join(old), "\n".join(new), tuple(" ".join(tests).split())))
    return changes


def problem(change: Change, root: Path = ROOT) -> str | None:
    """Why a change cannot be tried, in a few words."""
    path = root / PACKAGE / change.file
    if not path.is_file():
        return "no such file"
    found = path.read_text(encoding="utf-8").count(change.old)
    if found != 1 or not change.old:
        return f"its old text is there {found} times, not once"
    if change.old == change.new:
        return "it changes nothing"
    missing = [test for test in change.tests if not (root / test).is_file()]
    if missing or not change.tests:
        return f"no such tests: {' '.join(missing) or 'none are named'}"
    return None


def run_tests(copy: Path, tests: Sequence[str]) -> int:
    """Pytest's exit code: 0 all passed, 1 some failed, others: they could not run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    return done.returncode


def is_caught(change: Change, copy: Path) -> bool:
    """Whether a test fails with the change; the copy is then as it was."""
    path = copy / PACKAGE / change.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(change.old, change.new), encoding="utf-8")
    try:
        return run_tests(copy, change.tests) == 1
    finally:
        path.write_text(before, encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """Try the changes and say which passed unseen."""
    changes = read_changes()
    if words:
        changes = [c for c in changes if any(word in f"{c.file} {c.tests}" for word in words)]
    refused = [f"{change}: {why}" for change in changes if (why := problem(change))]
    if refused or not changes:
        print(*(refused or [f"no change has one of: {' '.join(words)}"]), sep="\n", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
        tests = sorted({test for change in changes for test in change.tests})
        if run_tests(copy, tests) != 0:
            print("some of the tests fail without any change: mend them first", file=sys.stderr)
            return 2
        unseen = []
        for number, change in enumerate(changes, start=1):
            caught = is_caught(change, copy)
            unseen += [] if caught else [change]
            said = "caught" if caught else "UNSEEN"
            print(f"[{number}/{len(changes)}] {said}  {change}", flush=True)
    print(f"{len(unseen)} of {len(changes)} changes passed unseen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
