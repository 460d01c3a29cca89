"""Hold published reward and cost models against their cards; see ``published/README.md``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag
from safe_rlhf_panacea.configs.kinds import positive_int
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.io import atomic_write_json, check_file, read_json
from safe_rlhf_panacea.runs.run_record import git_state, package_versions, recordable
from safe_rlhf_panacea.show.tables import align

PROGRAM = "python eval/regression.py"
REFERENCES = Path(__file__).with_name("published")
SAME, DIFFERS, COULD_NOT_RUN = 0, 1, 2
HEAD = ["checkpoint", "what", "its value", "measured", "difference", "tolerance", "verdict"]


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Hold published reward and cost models against the scores on their cards. Leaves with 0 if
        all are the same, 1 if one differs, 2 if nothing differs but something could not run.
        """,
        f"{PROGRAM}\n{PROGRAM} --local_dir checkpoints --accuracy true",
    )
    parser.add_argument("--local_dir", type=Path, help="a folder per checkpoint; default: the hub")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="these only (default: all)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add_flag(parser, "--accuracy", False, "accuracies on a test split: hours on a CPU")
    parser.add_argument("--pairs", type=positive_int, help="so many of its pairs (default: all)")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="sequences at a time")
    parser.add_argument("--references", type=Path, default=REFERENCES, help="folder of the numbers")
    parser.add_argument("--output", type=Path, help="also write what was found to this JSON file")
    add_flag(parser, "--overwrite", False, "replace that file")
    add_flag(parser, "--progress", True, "show progress bars")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what could only fail, or be ignored, after hours."""
    if args.pairs and not args.accuracy:
        raise UserError("--pairs is of the accuracies: add --accuracy true")
    if args.local_dir:
        args.local_dir = args.local_dir.expanduser()
        if not args.local_dir.is_dir():
            raise UserError(f"--local_dir {args.local_dir}: no such folder")
    if args.output:
        check_file(args.output, args.overwrite)
        args.output.parent.mkdir(parents=True, exist_ok=True)


def chosen(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The references of the checkpoints that are wanted, those with something to check."""
    known = {path.stem: read_json(path) for path in sorted(args.references.glob("*.json"))}
    if not known:
        raise UserError(f"--references {args.references}: no references there")
    if unknown := [name for name in args.checkpoints if name not in known]:
        raise UserError(f"--checkpoints {unknown[0]}: there are {', '.join(known)}")
    wanted = [known[name] for name in args.checkpoints or known]
    kinds = ("scores", "accuracy") if args.accuracy else ("scores",)
    of_use = [one for one in wanted if any(one["values"].get(kind) for kind in kinds)]
    if args.checkpoints and (idle := [one["name"] for one in wanted if one not in of_use]):
        raise UserError(f"--checkpoints {idle[0]}: only accuracies are known: add --accuracy true")
    if args.accuracy and not any("accuracy" in one["values"] for one in of_use):
        names = ", ".join(one["name"] for one in of_use)
        raise UserError(f"--accuracy: none was reported for {names}")
    return of_use


def measure(args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """All checks that could be made, and why the others could not.

    One checkpoint that is missing or damaged does not keep the others from being checked.
    """
    from published_checkpoints import accuracy_checks, loaded, read_pairs, score_checks

    references, pairs = chosen(args), None
    checks: list[Any] = []
    reasons: list[str] = []
    if args.accuracy:
        try:
            pairs = read_pairs(args)
        except UserError as error:
            reasons.append(str(error))
    for reference in references:
        try:
            with loaded(reference["values"], args) as (model, tokenizer):
                checks += score_checks(reference, model, tokenizer, args.dtype)
                if pairs and "accuracy" in reference["values"]:
                    checks += accuracy_checks(reference, model, tokenizer, pairs, args)
        except UserError as error:
            reasons.append(str(error))
    return checks, [" ".join(reason.split()) for reason in reasons]


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Check, print and write; the exit code."""
    args = build_parser().parse_args(argv)
    check_arguments(args)
    start = time.perf_counter()
    checks, reasons = measure(args)
    differ = sum(not check.same for check in checks)
    code = DIFFERS if differ else COULD_NOT_RUN if reasons else SAME
    if checks:
        print(align([HEAD, *(check.row for check in checks)]))
    verdict = f"{differ} DIFFER" if differ else "all the same"
    made = f"{len(checks)} checks, {verdict}" if checks else "nothing was checked"
    failed = f"; {len(reasons)} COULD NOT RUN" if reasons else ""
    print(f"{made}{failed} ({time.perf_counter() - start:.1f} s)", flush=True)
    for reason in reasons:
        print(f"error: {reason}", file=sys.stderr)
    if args.output:
        entries = [
            {**asdict(check), "difference": check.difference, "same": check.same}
            for check in checks
        ]
        found = {"exit_code": code, "checks": entries, "could_not_run": reasons}
        about = {"versions": package_versions(), "git": git_state()}
        atomic_write_json(args.output, recordable({**found, **about}))
    return code


if __name__ == "__main__":
    sys.exit(main())
