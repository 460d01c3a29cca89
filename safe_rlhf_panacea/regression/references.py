"""Files of reference numbers: what, where from, values, tolerances and their reasons."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import git_state, package_versions
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json

FORMAT = 1
KEYS = ("format", "suite", "name", "what", "source", "values", "tolerances", "reason")


def read_reference(path: Path) -> dict[str, Any]:
    """Read a reference.

    Its keys: ``suite`` and ``name``; ``what`` it holds and where it is from (``source``), in
    words; ``values``, whatever the suite keeps; ``tolerances``, by the name of what they are for;
    ``reason``, why they are as large as they are; ``recorded`` when, with which versions.

    Raises:
        UserError: the file is missing or damaged, or of another format.
    """
    reference = read_json(path)
    if not isinstance(reference, dict) or reference.get("format") != FORMAT:
        raise UserError(f"{path}: not a reference of format {FORMAT}")
    missing = [key for key in KEYS if key not in reference]
    if missing:
        raise UserError(f"{path}: the reference has no {', '.join(missing)}")
    return reference


def write_reference(
    path: Path,
    *,
    suite: str,
    what: str,
    source: str,
    values: Mapping[str, Any],
    tolerances: Mapping[str, float],
    reason: str,
) -> Path:
    """Record a reference; its name is the file's.

    Raises:
        UserError: the file exists, or the sources differ from the last commit: nobody could
            say later what the numbers are of.
    """
    check_recordable(path)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    atomic_write_json(
        path,
        {
            "format": FORMAT,
            "suite": suite,
            "name": path.stem,
            "what": what,
            "source": source,
            "values": dict(values),
            "tolerances": dict(tolerances),
            "reason": reason,
            "recorded": {"at": now, "versions": package_versions(), "git": git_state()},
        },
    )
    return path


def check_recordable(path: Path) -> None:
    """Whether a reference may be written there now, from these sources.

    Raises:
        UserError: it exists, or the sources are not those of a commit.
    """
    if path.exists():
        raise UserError(f"{path} exists: a reference is not overwritten; remove it first")
    state = git_state()
    if state is None:
        raise UserError("a reference is recorded from a git checkout, so that it names its commit")
    if state["modified"]:
        raise UserError("files differ from the last commit: commit first, then record")
