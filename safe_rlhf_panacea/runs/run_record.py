"""What a run was: its flags, versions and commit, in ``run.json``.

Of the environment it names only the variables in ``ENVIRONMENT``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import safe_rlhf_panacea
from safe_rlhf_panacea.configs.kinds import FROM_PYTHON
from safe_rlhf_panacea.configs.options import Options
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, read_json
from safe_rlhf_panacea.runs.run_folder import RUN_FILE, is_finished, is_latest_link, read_record

LAUNCHER_FOLDER = "launcher"
# The files of the launcher that started this run, separated as in PATH; set by bash/common.sh.
LAUNCHER_VARIABLE = "PANACEA_LAUNCHER"
# What decides how a run behaves and is no secret.
ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "WANDB_MODE")
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LATEST = "latest"  # the file among them that names the last whole one
# Of the evaluations during training: all, the latest, and the page that shows them.
EVALUATIONS_FILE, RESULTS_FILE, REPORT_FILE = "evaluations.jsonl", "results.json", "report.html"
OPTIONS_FILE = "run.yaml"
WANDB_FILE = "wandb_run.json"  # the id of the run of wandb, so that a resumed one goes on in it
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "deepspeed",
    "datasets",
    "wandb",
    "numpy",
    "scipy",
    "moocore",
)
# "max_new_tokens" and "pad_token_id" are no secrets; "hf_token" and "api_key" are.
SECRET = re.compile(
    r"password|passwd|secret|credential|api_?key|private_?key|"
    r"(^|_)(hf|hub|auth|access|api|bearer)_token$|^token$",
    re.IGNORECASE,
)


def check_output_dir(
    path: str | os.PathLike[str], overwrite: bool = False, resume: bool | None = None
) -> Path:
    """Whether a folder may be claimed; changes nothing.

    Args:
        path: the folder.
        overwrite: whether a run in it is to be replaced.
        resume: whether it is to go on; None of programs that resume nothing.

    Raises:
        UserError: the path is a file, the folder holds a run already, there is none to resume, or
            a run would be replaced through the link to the newest one.
    """
    folder = Path(path).expanduser()
    if overwrite and resume:
        raise UserError(f"{folder}: a run is either resumed or overwritten: choose one")
    if overwrite and is_latest_link(folder):
        raise UserError(
            f"{folder} is a link to the newest run, {os.readlink(folder)}: to replace that run, "
            "name its own folder"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: the output folder must be a folder, or new")
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(f"{place} is a link that leads nowhere: name a folder, or a new one")
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


def how_to_go_on(folder: Path) -> str:
    """What a user can do with a training that stands in a folder, in a few words."""
    if is_finished(folder):
        return "it is finished"
    latest = folder / CHECKPOINTS / LATEST
    if not latest.is_file():
        return "it has no checkpoint (--save_interval) to go on from"
    step = latest.read_text(encoding="utf-8", errors="replace").strip().replace("-", " ")
    return f"--resume goes on from {step}"


def check_own_output(path: str | os.PathLike[str], program: str, overwrite: bool = False) -> Path:
    """``check_output_dir`` of a program that must not replace another one's run.

    Raises:
        UserError: also where the folder holds another program's: overwriting a training would take
            its checkpoints away.
    """
    folder = check_output_dir(path, overwrite=overwrite)
    record = read_json(folder / RUN_FILE) if (folder / RUN_FILE).exists() else {"program": program}
    if not isinstance(record, dict) or record.get("program") != program:
        raise UserError(f"{folder} holds another program's run: choose another output folder")
    return folder


def prepare_output_dir(
    path: str | os.PathLike[str], overwrite: bool = False, resume: bool | None = None
) -> Path:
    """Claim a folder for a run.

    ``overwrite`` takes away what would mix with the new run: its record, metrics and
    checkpoints. Nothing else in the folder is touched.

    Raises:
        UserError: the path is a file, the folder holds a run already, or there is none to resume.
    """
    folder = check_output_dir(path, overwrite, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite and (folder / RUN_FILE).exists():
            remove_run(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    return folder


def run_files(folder: Path) -> list[Path]:
    """What is in a folder of a run's files and folders, its record last."""
    names = (
        CHECKPOINTS,
        LAUNCHER_FOLDER,
        METRICS_FILE,
        EVALUATIONS_FILE,
        RESULTS_FILE,
        REPORT_FILE,
        OPTIONS_FILE,
    )
    paths = (folder / name for name in (*names, WANDB_FILE, RUN_FILE))
    return [path for path in paths if path.exists()]


def remove_run(folder: Path, keep: Collection[str] = ()) -> None:
    """Take a run away; until its record goes, last, the folder says that it holds one."""
    for path in run_files(folder):
        if path.name in keep:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_run_record(
    path: str | os.PathLike[str],
    args: Mapping[str, Any] | Options | argparse.Namespace,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``run.json``, and beside it a copy of the launcher, where one started this run.

    Typed options also get a ``run.yaml`` with those that are not at their defaults, which
    ``--config`` reads.

    Args:
        path: the run's folder.
        args: the resolved flags.
        extra: further entries beside ``args``, for example ``{"program": ...}``.

    Returns:
        The file.
    """
    record = {
        **recordable(extra or {}),
        "started_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "args": recordable(args),
        "versions": package_versions(),
        "git": git_state(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }
    file = Path(path).expanduser() / RUN_FILE
    _copy_launcher(file.parent / LAUNCHER_FOLDER)
    if isinstance(args, Options):
        atomic_write_text(file.parent / OPTIONS_FILE, _options_text(args))
    atomic_write_json(file, record)
    return file


def _options_text(options: Options) -> str:
    """The options that are not at their defaults as YAML, which ``--config`` reads.

    What no file can hold stands there as a mapping that ``--config`` refuses.
    """
    import yaml

    values = recordable(options.given(), objects=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if FROM_PYTHON in text:
        text = (
            "# This run was made in Python, with objects that no file can hold. --config reads "
            f"this file\n# if flags give the options anew that have '{FROM_PYTHON}' below.\n{text}"
        )
    return text


def _copy_launcher(folder: Path) -> None:
    """Keep the scripts as they were when the run began; without a launcher there is nothing."""
    for source in filter(None, os.environ.get(LAUNCHER_VARIABLE, "").split(os.pathsep)):
        if Path(source).is_file():
            folder.mkdir(exist_ok=True)
            shutil.copy(source, folder)


def finish_run_record(path: str | os.PathLike[str], training_seconds: float) -> None:
    """Add to ``run.json`` that the run came to its end, and how long it trained."""
    file = Path(path).expanduser() / RUN_FILE
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    finished = {"finished_at": now, "training_seconds": round(training_seconds, 3)}
    atomic_write_json(file, {**read_record(file), **finished})


def note_resumption(path: str | os.PathLike[str], step: int, flags: Mapping[str, Any]) -> None:
    """Add to ``run.json`` that the run went on from a step, and when.

    Args:
        path: the run's folder.
        step: of the checkpoint.
        flags: those of the record that are others now; what they were is kept.
    """
    file = Path(path).expanduser() / RUN_FILE
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = read_record(file)
    for key in ("finished_at", "training_seconds"):  # of a run that is made longer
        record.pop(key, None)
    entry = {"at": now, "step": step, "versions": package_versions(), "git": git_state()}
    if flags:
        entry["before"] = {name: record["args"].get(name) for name in flags}
        record["args"] = {**record["args"], **flags}
    atomic_write_json(file, {**record, "resumed": [*record.get("resumed", []), entry]})


def recordable(
    values: Mapping[str, Any] | Options | argparse.Namespace, *, objects: bool = False
) -> dict[str, Any]:
    """Values as JSON has them; what its name says is a secret is left out.

    Args:
        values: by name.
        objects: whether a mapping from ``FROM_PYTHON`` tells the text that stands for an object
            from text that was given.
    """
    items = values if isinstance(values, Mapping) else vars(values)
    return {str(k): _plain(v, objects) for k, v in items.items() if not SECRET.search(str(k))}


def _plain(value: Any, objects: bool) -> Any:
    if isinstance(value, (Mapping, argparse.Namespace)):
        return recordable(value, objects=objects)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, objects) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has neither infinities nor NaN
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if not callable(value) or isinstance(value, type):
        return {FROM_PYTHON: str(value)} if objects else str(value)
    address = address_of(value)  # its text has a place in memory
    return {FROM_PYTHON: address} if objects and not _is_found_at(address, value) else address


def _is_found_at(address: str, function: Callable[..., Any]) -> bool:
    """Whether another process finds a function by ``module:name``."""
    module, _, name = address.partition(":")
    return module != "__main__" and getattr(sys.modules.get(module), name, None) is function


def address_of(function: Callable[..., Any]) -> str:
    """``module:name`` of a function, or of the type of another object that can be called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def package_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that decide a run's numbers."""
    versions = {
        "safe-rlhf-panacea": safe_rlhf_panacea.__version__,
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any] | None:
    """Commit of this package's checkout and whether files differ from it; None elsewhere."""
    root = Path(safe_rlhf_panacea.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or no commit yet
