"""What a launcher would run, as one JSON object: ``--dry_run`` of the scripts in ``bash/``."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from safe_rlhf_panacea.algorithms.arguments import check_panacea
from safe_rlhf_panacea.base.arguments import check_common
from safe_rlhf_panacea.base.run_record import recordable
from safe_rlhf_panacea.baselines.variants import parse_flags
from safe_rlhf_panacea.experiments.table import Stage

BASELINES = "safe_rlhf_panacea.baselines."


def resolve(module: str, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Every flag of a program with its value, and a baseline's variants by folder name."""
    if module.startswith(BASELINES):
        algorithm, flags, variants = import_module(module).plan(argv)
        args = parse_flags(algorithm, flags)
        check(args)
        return {"algorithm": algorithm, **recordable(args)}, dict(variants)
    args = import_module(f"{module}.main").build_parser().parse_args(argv)
    check(args)
    return recordable(args), {}


def check(args: argparse.Namespace) -> None:
    """Find contradictions now, not when the run begins.

    Raises:
        UserError: as the program itself would.
    """
    check_common(args)
    objectives = getattr(args, "objectives", None)
    if objectives is None and hasattr(args, "reward_models"):
        objectives = [name for name, _ in args.reward_models]
    if objectives is not None:
        check_panacea(args, tuple(objectives))


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the command line or the size changes of the launcher's own values."""
    return {
        name: {"launcher": before.get(name), "now": value}
        for name, value in after.items()
        if before.get(name) != value
    }


def print_report(
    stage: Stage, size: str, start: Sequence[str], paper: Sequence[str], more: Sequence[str]
) -> None:
    """Print the object; nothing is started and nothing written.

    Args:
        stage: the launcher's row of the table.
        size: ``full`` and the like.
        start: the words that start the program.
        paper: the launcher's flags.
        more: those of the size and of the user, which win.
    """
    values, variants = resolve(stage.program, [*paper, *more])
    before, _ = resolve(stage.program, paper)
    report = {
        "launcher": stage.launcher,
        "mirrors": stage.mirrors,
        "size": size,
        "command": f"{' '.join(start)} {shlex.join([*paper, *more])}",
        "hyperparameters": values,
        "changed": differences(before, values),
        "variants": variants,
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
