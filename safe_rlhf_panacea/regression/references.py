"""Files of reference numbers: what, where from, values, tolerances and their reasons."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import git_state, package_versions
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_text, read_json

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
    name: str | None = None,
) -> Path:
    """Record a reference; its name is the file's, unless another is given.

    Raises:
        UserError: the file exists, or the sources differ from the last commit: nobody could
            say later what the numbers are of.
        ValueError: a value is NaN or infinite.
    """
    check_recordable(path)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    reference = {
        "format": FORMAT,
        "suite": suite,
        "name": name or path.stem,
        "what": what,
        "source": source,
        "values": dict(values),
        "tolerances": dict(tolerances),
        "reason": reason,
        "recorded": {"at": now, "versions": package_versions(), "git": git_state()},
    }
    atomic_write_text(path, _readable(reference))
    return path


def _readable(reference: Mapping[str, Any]) -> str:
    """JSON in which a row of numbers is one line."""
    text = json.dumps(reference, indent=2, ensure_ascii=False, allow_nan=False)
    row = re.compile(r"\[[-+.\deE,\s]+\]")
    return row.sub(lambda match: " ".join(match.group().split()), text) + "\n"


def check_recordable(path: Path) -> None:
    """Whether a reference may be written there now, from these sources.

    Raises:
        UserError: it exists, or the sources are not those of a commit.
    """
    if path.exists():
        raise UserError(f"{path} exists: a reference is not overwritten; remove it first")
    check_sources()


def check_sources() -> None:
    """Whether these are the sources of a commit, which a reference can name.

    Raises:
        UserError: they are not.
    """
    state = git_state()
    if state is None:
        raise UserError("a reference is recorded from a git checkout, so that it names its commit")
    if state["modified"]:
        raise UserError("files differ from the last commit: commit first, then record")
