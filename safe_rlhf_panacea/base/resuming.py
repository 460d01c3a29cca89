"""Going on where a run's latest checkpoint stands, as if it had never stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.checkpoint import TrainingState
from safe_rlhf_panacea.base.run_record import (
    CHECKPOINTS,
    METRICS_FILE,
    RUN_FILE,
    SNAPSHOTS_FILE,
    is_finished,
    note_resumption,
    recordable,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_text, read_json

LATEST = "latest"  # DeepSpeed's file with the name of the last whole checkpoint
# Flags that may change from one part of a run to the next.
FREE = (
    *("resume", "overwrite", "progress", "log_type", "log_dir", "log_project", "log_run_name"),
    *("local_rank", "device", "save_interval", "output_dir", "base"),
)


def latest_step(output_dir: str | Path) -> int:
    """The last step at which every engine of a run has a checkpoint.

    Raises:
        UserError: the run is finished, or has none.
    """
    folder = Path(output_dir).expanduser()
    if is_finished(folder):
        raise UserError(f"{folder} holds a finished run: there is nothing to resume")
    files = sorted((folder / CHECKPOINTS).glob(f"*/{LATEST}"))
    names = [file.read_text(encoding="utf-8").strip() for file in files]
    try:
        step = min(int(name.removeprefix("step-")) for name in names)
    except ValueError:
        raise UserError(
            f"{folder} holds no checkpoint to resume from: train with --save_interval"
        ) from None
    for file in files:
        if not (file.parent / f"step-{step}").is_dir():
            raise UserError(f"{file.parent} lacks step-{step}, which other engines have")
    return step


def load_checkpoint(engines: dict[str, Any], output_dir: str | Path, step: int) -> TrainingState:
    """Put weights, optimisers and schedules back; returns what else a resume needs.

    DeepSpeed's files are pickles: resume only runs of your own.

    Raises:
        UserError: the checkpoint is damaged or another version's.
    """
    found: dict[str, Any] = {}
    for name, engine in engines.items():
        folder = Path(output_dir).expanduser() / CHECKPOINTS / name
        try:
            path, found = engine.load_checkpoint(
                str(folder), tag=f"step-{step}", load_module_strict=False
            )
        except (OSError, RuntimeError, EOFError, KeyError, AssertionError) as error:
            raise UserError(f"{folder}/step-{step} cannot be loaded: {error}") from error
        if path is None:
            raise UserError(f"{folder}/step-{step} holds no checkpoint")
    return TrainingState.from_client_state(found)


def check_same_flags(output_dir: str | Path, args: argparse.Namespace) -> None:
    """Whether a run goes on with the flags that it began with.

    Raises:
        UserError: naming those that differ.
    """
    path = Path(output_dir).expanduser() / RUN_FILE
    before = {k: v for k, v in read_json(path)["args"].items() if k not in FREE}
    now = {k: v for k, v in json.loads(json.dumps(recordable(args))).items() if k not in FREE}
    changed = [
        f"--{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(f"{path.parent}: a run resumes with its own flags; {'; '.join(changed)}")


def take_up(output_dir: str | Path, args: argparse.Namespace) -> None:
    """Prepare the folder: what was logged after the checkpoint will be logged again.

    Raises:
        UserError: as ``latest_step`` and ``check_same_flags``.
    """
    folder = Path(output_dir).expanduser()
    step = latest_step(folder)
    check_same_flags(folder, args)
    log_dir = Path(args.log_dir).expanduser() if args.log_dir else folder
    for file in (log_dir / METRICS_FILE, folder / SNAPSHOTS_FILE):
        _cut_after(file, step, evaluates_next=args.eval_strategy == "epoch")
    note_resumption(folder, step)


def _cut_after(path: Path, step: int, *, evaluates_next: bool) -> None:
    """Leave out lines of later steps, and a last one that an interruption cut.

    With ``evaluates_next`` also the evaluation at the step itself: one at the end of an epoch
    comes after the checkpoint, and so comes again.
    """
    if not path.is_file():
        return

    def stays(line: str) -> bool:
        values = json.loads(line)
        again = evaluates_next and not any(key.startswith("train/") for key in values)
        return values["step"] < step or (values["step"] == step and not again)

    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    atomic_write_text(path, "".join(f"{line}\n" for line in lines if stays(line)))
