"""Going on where a run's latest checkpoint stands, as if it had never stopped."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.data.template import SAFE_RLHF
from safe_rlhf_panacea.distributed import all_gather_objects, get_world_size
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_text, read_json_lines, remove_leftovers
from safe_rlhf_panacea.runs.checkpoint import (
    TrainingState,
    check_checksums,
    checksum_file,
    tensors_only,
)
from safe_rlhf_panacea.runs.run_folder import (
    CHECKPOINTS,
    EVALUATIONS_FILE,
    LATEST,
    METRICS_FILE,
    RUN_FILE,
    is_finished,
    read_record,
)
from safe_rlhf_panacea.runs.run_record import note_resumption, recordable

# Flags that may change from one part of a run to the next.
FREE = (
    *("resume", "overwrite", "progress", "log_dir", "log_project", "log_run_name"),
    *("log_type", "report_to"),
    *("local_rank", "device", "save_interval", "output_dir", "base"),
    # which servers draw the responses, and how long they are waited for
    *("rollout_server", "rollout_server_flags", "rollout_folder", "rollout_timeout"),
    "chat_template",  # what it stands for is compared
    "total_training_steps",  # earlier versions recorded it with the flags
)
# Flags that say how long a run is: free where the schedule is constant.
LENGTH = ("max_steps", "epochs")


def run_start(args: TrainConfig) -> datetime.datetime:
    """When the run began, in local time: the same on all processes, and when it is resumed."""
    if not args.resume:
        return all_gather_objects(datetime.datetime.now().replace(microsecond=0))[0]
    file = Path(args.output_dir).expanduser() / RUN_FILE
    record = read_record(file)
    try:
        if "template_date" in record:
            return datetime.datetime.fromisoformat(record["template_date"])
        # An older record.
        return datetime.datetime.fromisoformat(record["started_at"]).astimezone()
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: the record does not say when the run began") from None


def note_latest(output_dir: str | Path, step: int) -> None:
    """Say, once every engine of every process has saved, that a step's checkpoint is whole."""
    path = Path(output_dir).expanduser() / CHECKPOINTS / LATEST
    remove_leftovers(path.parent)
    atomic_write_text(path, f"step-{step}\n")


def latest_step(output_dir: str | Path, flags: Mapping[str, Any] | None = None) -> int:
    """The step of a run's last whole checkpoint; a ``UserError`` where it is finished or has none.

    With ``flags`` of a length that is not the recorded one, a finished run goes on as well.
    """
    folder = Path(output_dir).expanduser()
    if is_finished(folder) and not (flags and _other_length(folder, flags)):
        raise UserError(
            f"{folder} holds a finished run: there is nothing to resume; a larger --max_steps "
            "goes on from its last checkpoint"
        )
    file = folder / CHECKPOINTS / LATEST
    if not file.is_file():
        raise UserError(f"{folder} holds no checkpoint to resume from: train with --save_interval")
    match = re.fullmatch(r"step-(\d+)\n", file.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        steps = (path.stem for path in file.parent.glob(checksum_file(Path(), "*").name))
        raise UserError(
            f"{file} is damaged, so that {folder} holds no checkpoint to resume from: it must be "
            f"one line, the last whole step of: {', '.join(sorted(steps)) or 'none'}"
        )
    return int(match[1])


def load_checkpoint(engines: dict[str, Any], output_dir: str | Path, step: int) -> TrainingState:
    """Put weights, optimisers and schedules back; returns what else a resume needs.

    DeepSpeed's files are pickles; they are read as data, without running what they hold.
    """
    found: dict[str, Any] = {}
    checkpoints, tag = Path(output_dir).expanduser() / CHECKPOINTS, f"step-{step}"
    check_checksums(checkpoints, step)
    for name, engine in engines.items():
        place = checkpoints / name / tag
        if not place.is_dir():
            raise UserError(f"{place} cannot be loaded: it is missing")
        try:
            with tensors_only():
                path, found = engine.load_checkpoint(
                    str(place.parent), tag=tag, load_module_strict=False
                )
        except UnpicklingError as error:
            raise UserError(
                f"{place} cannot be loaded: it is damaged, or holds more than "
                f"tensors and plain values: {str(error).splitlines()[0]}"
            ) from error
        except Exception as error:  # DeepSpeed's and pickle's are of many kinds
            raise UserError(f"{place} cannot be loaded: {error!r}") from error
        if path is None:
            raise UserError(f"{place} holds no checkpoint")
    return TrainingState.from_client_state(found)


def check_same_run(
    output_dir: str | Path, args: TrainConfig, data: Mapping[str, str], template: str
) -> None:
    """Refuse to go on with other flags, data or processes than the run began with.

    A flag that is younger than the record counts as its default. ``data`` are fingerprints of the
    data sets now, by flag, and ``template`` the chat template now; older runs had Safe-RLHF's.
    """
    path = Path(output_dir).expanduser() / RUN_FILE
    folder, record = path.parent, read_record(path)
    if not isinstance(record.get("args"), dict):
        raise UserError(f"{path}: no record of a run, so that it cannot be resumed")
    processes, here = record.get("processes", 1), get_world_size()
    if processes != here:
        raise UserError(
            f"{folder} was trained by {processes} processes and is resumed by {here}: "
            "an exact resume needs as many"
        )
    now = _bound(vars(args))
    younger = {name: one.default for name, one in args.OPTIONS.items()}
    begun = _bound({**younger, **record["args"]})
    length = {name: begun.pop(name) for name in LENGTH if name in begun}
    if changed := _changed(begun, now):
        raise UserError(f"{folder}: a run resumes with its own flags; {'; '.join(changed)}")
    schedules = {name: value for name, value in begun.items() if name.endswith("lr_scheduler_type")}
    bent = [f"--{name} {value}" for name, value in schedules.items() if value != "constant"]
    if bent and (changed := _changed(length, now)):
        raise UserError(
            f"{folder}: {'; '.join(changed)}: {bent[0]} lays out the learning rate for the whole "
            "run, which only a constant one could outlast; finish it with its own flags, or begin "
            "a longer run in another folder"
        )
    if record.get("chat_template", SAFE_RLHF) != template:
        raise UserError(
            f"{folder}: the chat template is not the one that the run began with "
            f"({RUN_FILE} has it): a run resumes with its own"
        )
    recorded = record.get("data", {})  # older runs have none
    for flag, fingerprint in data.items():
        if recorded.get(flag, fingerprint) != fingerprint:
            raise UserError(
                f"{folder}: the data of --{flag} have changed since the run began: "
                "a run resumes with its own data"
            )


def can_go_on(output_dir: str | Path, flags: Mapping[str, Any]) -> bool:
    """Whether an unfinished run has a whole checkpoint, and was begun with these flags."""
    try:
        latest_step(output_dir)
    except UserError:
        return False
    begun, now = _begun(Path(output_dir).expanduser()), _bound(flags)
    # A flag that the record does not know is younger than the run: resuming takes its default.
    return bool(begun) and not _changed({k: begun.get(k, now[k]) for k in now}, now)


def _begun(folder: Path) -> dict[str, Any]:
    """The flags that a run began with, if its record has any."""
    flags = read_record(folder / RUN_FILE).get("args")
    return flags if isinstance(flags, dict) else {}


def _other_length(folder: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a run's length that are not those of its record."""
    begun = _begun(folder)
    names = (name for name in LENGTH if name in begun and name in flags)
    return {name: flags[name] for name in names if flags[name] != begun[name]}


def _bound(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that must not change, as JSON has them."""
    plain = json.loads(json.dumps(recordable(flags)))
    return {name: value for name, value in plain.items() if name not in FREE}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs; what only ``now`` has was worked out from the flags."""
    return [
        f"--{key} was {before[key]!r} and is {now.get(key)!r}"
        for key in sorted(before)
        if before[key] != now.get(key)
    ]


def take_up(output_dir: str | Path, args: TrainConfig, step: int, total: int) -> None:
    """Prepare the folder, once all is loaded: what was logged after the checkpoint comes again.

    ``step`` is the checkpoint's, of ``total`` in the whole run, whose last evaluation comes after
    its last checkpoint.
    """
    folder = Path(output_dir).expanduser()
    if step > total:
        raise UserError(
            f"{folder} has made {step} steps already, and --max_steps and --epochs give {total}"
        )
    for place in (folder, folder / CHECKPOINTS):
        remove_leftovers(place)
    log_dir = Path(args.log_dir).expanduser() if args.log_dir else folder
    # An evaluation at the end of an epoch or of the run comes after the checkpoint, and so again.
    evaluates_next = args.eval_strategy == "epoch" or step >= total
    for file in filter(Path.is_file, (log_dir / METRICS_FILE, folder / EVALUATIONS_FILE)):
        kept = []
        for number, values in enumerate(read_json_lines(file), start=1):
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                raise UserError(f"{file}:{number}: the line names no step")
            again = evaluates_next and not any(key.startswith("train/") for key in values)
            if values["step"] < step or (values["step"] == step and not again):
                kept.append(json.dumps(values, ensure_ascii=False) + "\n")
        atomic_write_text(file, "".join(kept))
    note_resumption(folder, step, _other_length(folder, vars(args)))
