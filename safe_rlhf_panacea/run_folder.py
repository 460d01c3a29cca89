"""The folder of a run, read and renamed without loading torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json

RUN_FILE = "run.json"


def is_finished(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a run that came to its end."""
    file = Path(path).expanduser() / RUN_FILE
    return file.is_file() and "finished_at" in read_record(file)


def read_record(file: Path) -> dict[str, Any]:
    """A run's record.

    Raises:
        UserError: it is missing or damaged.
    """
    record = read_json(file)
    if not isinstance(record, dict):
        raise UserError(f"{file}: no record of a run")
    return record


def set_aside(path: str | os.PathLike[str]) -> Path:
    """Rename the folder of an interrupted run, so that it can be run anew and loses nothing."""
    folder = Path(path).expanduser()
    for number in range(1, 1000):
        aside = folder.with_name(f"{folder.name}.interrupted-{number}")
        if not aside.exists():
            return folder.rename(aside)
    raise UserError(f"{folder}: interrupted too often; remove {folder.name}.interrupted-*")
