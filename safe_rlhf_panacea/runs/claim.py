"""A training's hold on its folder: one at a time, and nothing left of one that never began."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs.run_folder import RUN_FILE
from safe_rlhf_panacea.runs.run_record import (
    check_output_dir,
    prepare_output_dir,
    remove_run,
    run_files,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # asked for where it is used

LOCK_FILE = ".lock"


@dataclass
class _Hold:
    """A folder that this process holds: its lock, and what a fresh claim found there."""

    lock: BinaryIO | None
    found: set[str] | None = None  # None: nothing to withdraw
    made: list[Path] = field(default_factory=list)  # folders, the innermost first


_holds: dict[Path, _Hold] = {}


def lock_folder(path: str | os.PathLike[str]) -> None:
    """Hold an existing folder until this process lets go or ends, however it ends.

    The lock is the kernel's: a killed run leaves none behind. Where there is none to be had
    (Windows, some network file systems) the folder is not locked. The process that holds a
    folder may lock it again.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    folder = Path(path).expanduser().resolve()
    if folder in _holds:
        return
    lock = None
    if fcntl is not None:
        try:
            lock = (folder / LOCK_FILE).open("ab")  # to write: network file systems ask for it
        except OSError as error:
            raise UserError(f"{path} cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(
                f"{path}: a run is under way in this folder; wait for its end"
            ) from None
        except OSError:  # no locks on this file system
            lock.close()
            lock = None
    _holds[folder] = _Hold(lock)


def unlock_folder(path: str | os.PathLike[str]) -> None:
    """Let go of a folder, if this process holds it."""
    hold = _holds.pop(Path(path).expanduser().resolve(), None)
    if hold is not None and hold.lock is not None:
        hold.lock.close()


def check_free(
    path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool | None = None
) -> None:
    """Whether a folder may be claimed; one that holds a run already is locked from here on.

    Raises:
        UserError: as ``check_output_dir``, or another process holds it.
    """
    if (check_output_dir(path, overwrite=overwrite, resume=resume) / RUN_FILE).exists():
        lock_folder(path)


def claim_folder(
    path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool | None = None
) -> None:
    """Lock a folder and prepare it for a run.

    Raises:
        UserError: another process holds it, or as ``prepare_output_dir``.
    """
    folder = Path(path).expanduser().resolve()
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written to: {error.strerror}") from error
    lock_folder(folder)
    prepare_output_dir(path, overwrite=overwrite, resume=resume)
    if not resume:
        _holds[folder].found = {file.name for file in run_files(folder)}
        _holds[folder].made = missing


def withdraw_claim(path: str | os.PathLike[str]) -> None:
    """Take back a fresh claim: the run failed before its first step, and may be started again.

    What was in the folder before stays, as does whatever is not the run's.
    """
    folder = Path(path).expanduser().resolve()
    hold = _holds.get(folder)
    if hold is None or hold.found is None:
        return
    remove_run(folder, keep=hold.found)
    if hold.made:
        (folder / LOCK_FILE).unlink(missing_ok=True)
    unlock_folder(folder)
    for made in hold.made:
        if any(made.iterdir()):
            break
        made.rmdir()
