"""The folder of a run, read and renamed without loading torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json

RUN_FILE = "run.json"
RUNS, LATEST = "runs", "latest"  # runs/latest is a link to the newest run


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


def is_latest_link(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the link that ``point_latest`` makes."""
    return Path(path).name == LATEST and Path(path).is_symlink()


def point_latest(folder: str | os.PathLike[str]) -> None:
    """Let the link ``latest`` beside a run's folder point to it; the link is relative.

    Nothing is done for a run whose parent folder is not called ``runs``, where ``latest`` is a
    file or a folder of its own, and where the file system or the system has no symbolic links.
    """
    run = Path(os.path.abspath(os.path.expanduser(folder)))
    link = run.with_name(LATEST)
    is_taken = os.path.lexists(link) and not link.is_symlink()
    if run.parent.name != RUNS or run == link or is_taken:
        return
    temporary = run.with_name(f".{LATEST}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError, NotImplementedError):
        temporary.symlink_to(run.name, target_is_directory=True)
        os.replace(temporary, link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
