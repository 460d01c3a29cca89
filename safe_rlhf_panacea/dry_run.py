"""What a launcher would run, as one JSON object: ``--dry_run`` of the scripts in ``bash/``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from safe_rlhf_panacea.base.arguments import check_common
from safe_rlhf_panacea.base.run_record import recordable
from safe_rlhf_panacea.baselines.variants import check_flags
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.dry_run"
BASELINES = "safe_rlhf_panacea.baselines."


def resolve(module: str, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Every flag of a program with its value, and a baseline's variants by folder name."""
    if module.startswith(BASELINES):
        algorithm, flags, variants = import_module(module).plan(argv)
        args = check_flags(algorithm, flags)
        return {"algorithm": algorithm, **recordable(args)}, dict(variants)
    program = import_module(f"{module}.main")
    parse = getattr(program, "parse_arguments", None) or program.build_parser().parse_args
    args = parse(argv)
    check_common(args)
    return {key: value for key, value in recordable(args).items() if key != "reward_specs"}, {}


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the command line or the size changes of the launcher's own values."""
    return {
        name: {"launcher": before.get(name), "now": value}
        for name, value in after.items()
        if before.get(name) != value
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the object; nothing is started and nothing written."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_rlhf_panacea.dry_run", description=__doc__
    )
    for name in ("launcher", "module", "table", "size", "start"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--paper", type=int, required=True, help="how many of FLAGS are its own")
    parser.add_argument("flags", nargs="*", metavar="FLAGS", help="after --")
    argv = list(sys.argv[1:] if argv is None else argv)
    own = argv.index("--") if "--" in argv else len(argv)
    args, flags = parser.parse_args(argv[:own]), argv[own + 1 :]
    values, variants = resolve(args.module, flags)
    paper, _ = resolve(args.module, flags[: args.paper])
    report = {
        "launcher": args.launcher,
        "mirrors": args.table,
        "size": args.size,
        "command": f"{args.start} {shlex.join(flags)}",
        "hyperparameters": values,
        "changed": differences(paper, values),
        "variants": variants,
    }
    say(json.dumps(report, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
