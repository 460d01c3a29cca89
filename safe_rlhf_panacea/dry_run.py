"""What a launcher would run, as one JSON object: ``--dry_run`` of the scripts in ``bash/``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from safe_rlhf_panacea.baselines.variants import variant_configs
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_record import recordable

BASELINES = "safe_rlhf_panacea.baselines."


def resolve(module: str, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every option of a program, and what a baseline's variants change, by folder name."""
    if module.startswith(BASELINES):
        algorithm, config, variants = import_module(module).plan(argv)
        variant_configs(config, variants)  # refuses what the baseline would
        return {"algorithm": algorithm, **recordable(config)}, dict(variants)
    program = import_module(module)
    return recordable(program.parse_arguments(argv)), {}


def print_report(
    module: str,
    about: Mapping[str, str],
    start: Sequence[str],
    paper: Sequence[str],
    more: Sequence[str],
) -> None:
    """Print the object, which begins with ``about``; nothing is started and nothing written.

    ``start`` are the words that start the program, ``paper`` the launcher's flags, ``more`` those
    of the size and of the user, which win.
    """
    values, variants = resolve(module, [*paper, *more])
    before, _ = resolve(module, paper)
    changed = {
        name: {"launcher": before.get(name), "now": value}
        for name, value in values.items()
        if before.get(name) != value
    }
    report = {
        **about,
        "command": f"{' '.join(start)} {shlex.join([*paper, *more])}",
        "hyperparameters": values,
        "changed": changed,
        "variants": variants,
    }
    say(json.dumps(report, indent=2, ensure_ascii=False))
