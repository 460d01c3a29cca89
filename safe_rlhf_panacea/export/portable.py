"""What a run says of itself, less what means something only on the machine that it ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.models.files import is_local

# An absolute path in a flag's value, which may stand behind `name:1:` or `helpful=`; a URL with
# its host and port.
PATH = re.compile(
    r"(?<![\w.~-])(?:[A-Za-z][\w+.-]*://[^=,;?]*|(?:~[\w-]*|[A-Za-z]:)?[/\\][^:=,;?]*)"
)
USER = re.compile(r"~[^/\\]*|/(home|Users)/[^/]*")  # no more than somebody's own folder
# Of run.json; neither the environment nor what happened on the way.
SHARED_KEYS = (
    "program",
    "processes",
    "started_at",
    "finished_at",
    "training_seconds",
    "args",
    "data",
    "adapted_share",
    "versions",
    "git",
)


def portable(value: Any) -> Any:
    """A value of a record, of any depth, with absolute paths cut to their last part."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return PATH.sub(_last_part, value) if isinstance(value, str) else value


def _last_part(match: re.Match[str]) -> str:
    text, home = match[0].rstrip("/\\"), str(Path.home())
    if home.startswith(text) or USER.fullmatch(text):
        return "~"
    return re.split(r"[/\\]", text)[-1]


def portable_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``run.json`` may leave the machine."""
    return {key: portable(record[key]) for key in SHARED_KEYS if key in record}


def hub_name(model: str | None) -> str | None:
    """The name that others find a model by; None for a folder of this machine."""
    return None if model is None or is_local(model) else model
