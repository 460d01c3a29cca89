"""The folder of a run: what lies in it, and which process holds it. Nothing here loads torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import check_folder, read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # asked for where it is used

AnyPath = str | os.PathLike[str]
RUN_FILE = "run.json"
LAUNCHER_FOLDER = "launcher"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
# Of the evaluations during training: all, the latest, and the page that shows them.
EVALUATIONS_FILE, RESULTS_FILE, REPORT_FILE = "evaluations.jsonl", "results.json", "report.html"
OPTIONS_FILE = "run.yaml"
WANDB_FILE = "wandb_run.json"  # the id of the run of wandb, so that a resumed one goes on in it
LOCK_FILE = ".lock"
# runs/latest is a link to the newest run, checkpoints/latest names the last whole checkpoint.
RUNS, LATEST = "runs", "latest"
# What a run writes, its record last: while that is there, the folder says that it holds a run.
OF_A_RUN = (
    *(CHECKPOINTS, LAUNCHER_FOLDER, METRICS_FILE, EVALUATIONS_FILE, RESULTS_FILE, REPORT_FILE),
    *(OPTIONS_FILE, WANDB_FILE, RUN_FILE),
)


def read_record(file: Path) -> dict[str, Any]:
    """A run's record; a ``UserError`` where it is missing or damaged."""
    record = read_json(file)
    if not isinstance(record, dict):
        raise UserError(f"{file}: no record of a run")
    return record


def is_finished(path: AnyPath) -> bool:
    """Whether a folder holds a run that came to its end."""
    file = Path(path).expanduser() / RUN_FILE
    return file.is_file() and "finished_at" in read_record(file)


def how_to_go_on(folder: Path) -> str:
    """What a user can do with a training that stands in a folder, in a few words."""
    if is_finished(folder):
        return "it is finished"
    latest = folder / CHECKPOINTS / LATEST
    if not latest.is_file():
        return "it has no checkpoint (--save_interval) to go on from"
    step = latest.read_text(encoding="utf-8", errors="replace").strip().replace("-", " ")
    return f"--resume goes on from {step}"


def set_aside(path: AnyPath) -> Path:
    """Rename the folder of an interrupted run, so that it can be run anew and loses nothing."""
    folder = Path(path).expanduser()
    for number in range(1, 1000):
        aside = folder.with_name(f"{folder.name}.interrupted-{number}")
        if not aside.exists():
            return folder.rename(aside)
    raise UserError(f"{folder}: interrupted too often; remove {folder.name}.interrupted-*")


def point_latest(folder: AnyPath) -> None:
    """Let the relative link ``latest`` beside a run's folder, in a folder ``runs``, point to it.

    Nothing is done where ``latest`` is a file or a folder of its own, or links cannot be made.
    """
    run = Path(os.path.abspath(os.path.expanduser(folder)))
    link = run.with_name(LATEST)
    is_taken = os.path.lexists(link) and not link.is_symlink()
    if run.parent.name != RUNS or run == link or is_taken:
        return
    temporary = run.with_name(f".{LATEST}.{os.getpid()}.tmp")
    with suppress(OSError, NotImplementedError):
        temporary.symlink_to(run.name, target_is_directory=True)
        os.replace(temporary, link)
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


# -- a folder for a new run -------------------------------------------------------------------


def check_output_dir(path: AnyPath, overwrite: bool = False, resume: bool | None = None) -> Path:
    """Refuse a folder that cannot be claimed; changes nothing. Returns it.

    ``resume`` is None of programs that resume nothing. A ``UserError`` says that the path is a
    file, that the folder holds a run already or none to resume, or that a run would be replaced
    through the link to the newest one.
    """
    folder = Path(path).expanduser()
    if overwrite and resume:
        raise UserError(f"{folder}: a run is either resumed or overwritten: choose one")
    if overwrite and folder.name == LATEST and folder.is_symlink():
        raise UserError(
            f"{folder} is a link to the newest run, {os.readlink(folder)}: to replace that run, "
            "name its own folder"
        )
    check_folder(folder)
    holds_run = (folder / RUN_FILE).exists()
    if resume and not holds_run:
        raise UserError(f"{folder} holds no run to resume: {RUN_FILE} is missing")
    if holds_run and not (overwrite or resume):
        how = "" if resume is None else f"{how_to_go_on(folder)}, "
        raise UserError(
            f"{folder} already holds a run ({RUN_FILE}): {how}choose another output folder, "
            "or replace the run with --overwrite"
        )
    return folder


def check_own_output(path: AnyPath, program: str, overwrite: bool = False) -> Path:
    """``check_output_dir`` of a program that must not replace another one's run.

    Overwriting a training would take its checkpoints away.
    """
    folder = check_output_dir(path, overwrite=overwrite)
    record = read_json(folder / RUN_FILE) if (folder / RUN_FILE).exists() else {"program": program}
    if not isinstance(record, dict) or record.get("program") != program:
        raise UserError(f"{folder} holds another program's run: choose another output folder")
    return folder


def prepare_output_dir(path: AnyPath, overwrite: bool = False, resume: bool | None = None) -> Path:
    """Make a folder for a run; ``overwrite`` takes away what would mix with the new run."""
    folder = check_output_dir(path, overwrite, resume)
    with _writing_to(path):
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite and (folder / RUN_FILE).exists():
            _remove_run(folder)
    return folder


@contextmanager
def _writing_to(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written to: {error.strerror}") from error


def _remove_run(folder: Path, keep: Collection[str] = ()) -> None:
    for path in (folder / name for name in OF_A_RUN if name not in keep):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# -- holding a folder -------------------------------------------------------------------------


@dataclass
class _Hold:
    """A folder that this process holds: its lock, and what a fresh claim found there."""

    lock: BinaryIO | None
    found: set[str] | None = None  # None: nothing to withdraw
    made: list[Path] = field(default_factory=list)  # folders, the innermost first


_holds: dict[Path, _Hold] = {}


def lock_folder(path: AnyPath) -> None:
    """Hold an existing folder until this process lets go or ends, however it ends.

    The lock is the kernel's: a killed run leaves none behind. Where there is none to be had
    (Windows, some network file systems) the folder is not locked. A ``UserError`` says that another
    process holds the folder, or that it cannot be written to.
    """
    folder = Path(path).expanduser().resolve()
    if folder in _holds:
        return
    lock = None
    if fcntl is not None:
        with _writing_to(path):
            lock = (folder / LOCK_FILE).open("ab")  # to write: network file systems ask for it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            lock = None  # no locks on this file system
            if isinstance(error, BlockingIOError):
                raise UserError(
                    f"{path}: a run is under way in this folder; wait for its end"
                ) from None
    _holds[folder] = _Hold(lock)


def unlock_folder(path: AnyPath) -> None:
    """Let go of a folder, if this process holds it."""
    hold = _holds.pop(Path(path).expanduser().resolve(), None)
    if hold is not None and hold.lock is not None:
        hold.lock.close()


def check_free(path: AnyPath, *, overwrite: bool = False, resume: bool | None = None) -> None:
    """``check_output_dir``, and lock the folder from here on if it holds a run already."""
    if (check_output_dir(path, overwrite=overwrite, resume=resume) / RUN_FILE).exists():
        lock_folder(path)


def claim_folder(path: AnyPath, *, overwrite: bool = False, resume: bool | None = None) -> None:
    """Lock a folder and prepare it for a run."""
    folder = Path(path).expanduser().resolve()
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    with _writing_to(path):
        folder.mkdir(parents=True, exist_ok=True)
    lock_folder(folder)
    prepare_output_dir(path, overwrite=overwrite, resume=resume)
    if not resume:
        _holds[folder].found = {name for name in OF_A_RUN if (folder / name).exists()}
        _holds[folder].made = missing


def withdraw_claim(path: AnyPath) -> None:
    """Take back a fresh claim: the run failed before its first step, and may be started again.

    What was in the folder before stays, as does whatever is not the run's.
    """
    folder = Path(path).expanduser().resolve()
    hold = _holds.get(folder)
    if hold is None or hold.found is None:
        return
    _remove_run(folder, keep=hold.found)
    if hold.made:
        (folder / LOCK_FILE).unlink(missing_ok=True)
    unlock_folder(folder)
    for made in hold.made:
        if any(made.iterdir()):
            break
        made.rmdir()
