"""Runs suites of references, or records one anew."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

import safe_rlhf_panacea
from safe_rlhf_panacea.base.arguments import ArgumentParser, add_flag, positive_int
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.references import check_sources
from safe_rlhf_panacea.regression.report import Outcome, as_json, exit_code
from safe_rlhf_panacea.regression.suites import BAD_INPUT, Options

PROGRAM = "python eval/regression.py"
WITHOUT_DOWNLOAD = ("adapters", "trajectory", "front")
PUBLISHED = "published"
SUITES = (*WITHOUT_DOWNLOAD, PUBLISHED)
REFERENCES = Path(safe_rlhf_panacea.__file__).resolve().parents[1] / "eval" / "references"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Hold today's code against recorded numbers. Leaves with 0 if all are the same, 1 if one
        differs, 2 if nothing differs but something could not run.
        """,
        f"{PROGRAM}\n{PROGRAM} --suite published --local_dir checkpoints --accuracy true",
    )
    parser.add_argument("--suite", nargs="+", choices=SUITES, help="default: all but published")
    parser.add_argument("--references", type=Path, default=REFERENCES, help="folder of the numbers")
    parser.add_argument("--output", type=Path, help="also write what was found to this JSON file")
    add_flag(parser, "--overwrite", False, "replace that file")
    parser.add_argument("--record", choices=SUITES, help="record this suite's references instead")
    add_flag(parser, "--progress", True, "show progress bars")
    group = parser.add_argument_group(PUBLISHED)
    group.add_argument("--local_dir", type=Path, help="a folder per checkpoint; default: the hub")
    group.add_argument("--checkpoints", nargs="+", default=[], help="these only (default: all)")
    group.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add_flag(group, "--accuracy", False, "accuracies on a test split: hours on a CPU")
    group.add_argument("--pairs", type=positive_int, help="so many of its pairs (default: all)")
    group.add_argument("--batch_size", type=positive_int, default=16, help="sequences at a time")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse, before anything is computed, what could only fail or be ignored later.

    Raises:
        UserError: flags that do not go together, or a file that cannot be written.
    """
    if args.record and (args.suite or args.output):
        raise UserError("--record goes without --suite and --output: it records and compares not")
    if PUBLISHED not in args.suites and (args.local_dir or args.checkpoints or args.accuracy):
        raise UserError("--local_dir, --checkpoints and --accuracy want --suite published")
    if args.pairs and not args.accuracy:
        raise UserError("--pairs is of the accuracies: add --accuracy true")
    if args.local_dir and not args.local_dir.expanduser().is_dir():
        raise UserError(f"--local_dir {args.local_dir}: no such folder")
    if args.output:
        _check_output(args.output, args.overwrite)


def _check_output(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise UserError(f"--output {path} is a folder: name a JSON file")
    if path.exists() and not overwrite:
        raise UserError(f"--output {path} exists: name another file, or add --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path} cannot be written: its folder is not writable")


def options_of(args: argparse.Namespace, work_dir: str) -> Options:
    """What the suites are given of the flags."""
    names = {field.name for field in dataclasses.fields(Options)}
    values = {name: value for name, value in vars(args).items() if name in names}
    values["checkpoints"] = tuple(args.checkpoints)
    values["local_dir"] = args.local_dir and args.local_dir.expanduser()
    return Options(**values, work_dir=Path(work_dir))


def load_suite(name: str) -> ModuleType:
    """Import a suite only when it is wanted.

    Raises:
        CannotRun: this version of the package has none of that name.
    """
    path = f"safe_rlhf_panacea.regression.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise CannotRun(f"{name}: this version of the package has no such suite") from None


def run_suite(name: str, args: argparse.Namespace) -> Outcome:
    """Run one suite; whatever happens in it, the others have their turn."""
    outcome, start = Outcome(name), time.perf_counter()
    try:
        module = load_suite(name)
        outcome.about = module.HELP
        with tempfile.TemporaryDirectory() as work_dir:
            outcome.checks = list(module.run(options_of(args, work_dir)))
        if not outcome.checks:
            raise CannotRun(f"{name}: it made no checks")
    except CannotRun as error:
        outcome.checks, outcome.reasons = error.checks, error.reasons
    except BAD_INPUT as error:
        outcome.reasons = [" ".join(str(error).split())]
    except (Exception, SystemExit) as error:  # a defect: neither "the same" nor "differs"
        traceback.print_exc()
        outcome.reasons = [f"{name} broke off with {type(error).__name__}, see above: {error}"]
    outcome.seconds = time.perf_counter() - start
    return outcome


def run(args: argparse.Namespace) -> int:
    """Run the suites, print what they find, and give the exit code."""
    outcomes = []
    for name in args.suites:
        outcomes.append(run_suite(name, args))
        print(outcomes[-1].lines(), end="\n\n", flush=True)
        for reason in outcomes[-1].reasons:
            print(f"error: {reason}", file=sys.stderr, flush=True)
    if args.output:
        atomic_write_json(args.output, as_json(outcomes))
    return exit_code(outcomes)


def record(args: argparse.Namespace) -> int:
    """Record a suite's references anew.

    Raises:
        UserError: the suite's numbers are not ours to record, the sources are not those of a
            commit, or there is such a reference already.
    """
    module = load_suite(args.record)
    if not hasattr(module, "record"):
        raise UserError(f"{args.record} is not recorded: its references are others' numbers")
    check_sources()
    with tempfile.TemporaryDirectory() as work_dir:
        for path in module.record(options_of(args, work_dir)):
            print(path)
    return 0


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run or record suites; the exit code."""
    args = build_parser().parse_args(argv)
    args.suites = list(dict.fromkeys(args.suite or WITHOUT_DOWNLOAD))
    check_arguments(args)
    return record(args) if args.record else run(args)
