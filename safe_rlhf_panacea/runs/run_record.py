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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safe_rlhf_panacea
from safe_rlhf_panacea.configs.kinds import FROM_PYTHON
from safe_rlhf_panacea.configs.options import Options
from safe_rlhf_panacea.io import address_of, atomic_write_json, atomic_write_text
from safe_rlhf_panacea.runs.run_folder import (
    LAUNCHER_FOLDER,
    OPTIONS_FILE,
    RUN_FILE,
    AnyPath,
    read_record,
)

# The files of the launcher that started this run, separated as in PATH; set by bash/common.sh.
LAUNCHER_VARIABLE = "PANACEA_LAUNCHER"
# What decides how a run behaves and is no secret.
ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "WANDB_MODE")
PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "deepspeed", "datasets", "wandb"),
    *("numpy", "scipy", "moocore"),
)
# "max_new_tokens" and "pad_token_id" are no secrets; "hf_token" and "api_key" are.
SECRET = re.compile(
    r"password|passwd|secret|credential|api_?key|private_?key|"
    r"(^|_)(hf|hub|auth|access|api|bearer)_token$|^token$",
    re.IGNORECASE,
)
Values = Mapping[str, Any] | Options | argparse.Namespace


def write_run_record(path: AnyPath, args: Values, extra: Mapping[str, Any] | None = None) -> Path:
    """Write ``run.json``, and beside it a copy of the launcher, where one started this run.

    Typed options also get a ``run.yaml`` with those that are not at their defaults, which
    ``--config`` reads. ``extra`` are further entries beside ``args``. Returns the file.
    """
    record = {
        **recordable(extra or {}),
        "started_at": _now(),
        "args": recordable(args),
        "versions": package_versions(),
        "git": git_state(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }
    file = Path(path).expanduser() / RUN_FILE
    for source in filter(os.path.isfile, os.environ.get(LAUNCHER_VARIABLE, "").split(os.pathsep)):
        (file.parent / LAUNCHER_FOLDER).mkdir(exist_ok=True)
        shutil.copy(source, file.parent / LAUNCHER_FOLDER)
    if isinstance(args, Options):
        import yaml

        given = recordable(args.given(), objects=True)
        text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
        if FROM_PYTHON in text:
            text = (
                "# This run was made in Python, with objects that no file can hold. --config reads "
                "this file\n# if flags give the options anew that have "
                f"'{FROM_PYTHON}' below.\n{text}"
            )
        atomic_write_text(file.parent / OPTIONS_FILE, text)
    atomic_write_json(file, record)
    return file


def finish_run_record(path: AnyPath, training_seconds: float) -> None:
    """Add to ``run.json`` that the run came to its end, and how long it trained."""
    file = Path(path).expanduser() / RUN_FILE
    finished = {"finished_at": _now(), "training_seconds": round(training_seconds, 3)}
    atomic_write_json(file, {**read_record(file), **finished})


def note_resumption(path: AnyPath, step: int, flags: Mapping[str, Any]) -> None:
    """Add to ``run.json`` that the run went on from the checkpoint of a step, and when.

    ``flags`` are those of the record that are others now; what they were is kept.
    """
    file = Path(path).expanduser() / RUN_FILE
    record = read_record(file)
    for key in ("finished_at", "training_seconds"):  # of a run that is made longer
        record.pop(key, None)
    entry = {"at": _now(), "step": step, "versions": package_versions(), "git": git_state()}
    if flags:
        entry["before"] = {name: record["args"].get(name) for name in flags}
        record["args"] = {**record["args"], **flags}
    atomic_write_json(file, {**record, "resumed": [*record.get("resumed", []), entry]})


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def recordable(values: Values, *, objects: bool = False) -> dict[str, Any]:
    """Values as JSON has them; what its name says is a secret is left out.

    With ``objects`` a mapping from ``FROM_PYTHON`` tells the text that stands for an object from
    text that was given.
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
    module, _, name = address.partition(":")
    found = getattr(sys.modules.get(module), name, None)
    another_process_finds_it = module != "__main__" and found is value
    return {FROM_PYTHON: address} if objects and not another_process_finds_it else address


def package_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that decide a run's numbers."""
    own = {"safe-rlhf-panacea": safe_rlhf_panacea.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            own[package] = importlib.metadata.version(package)
    return own


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
