"""The model card of a trained adapter: ``README.md`` beside it, and its front as a picture."""

from __future__ import annotations

import shlex
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.command import programs
from safe_rlhf_panacea.configs import Program, configuration, kinds, option, options_of
from safe_rlhf_panacea.configs.training import TrainedAdapterOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.export.card_text import LIBRARY, PICTURE_FILE, Facts, card_text
from safe_rlhf_panacea.export.portable import hub_name, portable, portable_record
from safe_rlhf_panacea.fronts.result import FRONT_FILE, FrontResult
from safe_rlhf_panacea.fronts.runs import parse_run, read_run
from safe_rlhf_panacea.hub import HUB_NAME
from safe_rlhf_panacea.io import atomic_write_text, read_json_lines
from safe_rlhf_panacea.printing import printable_line, say
from safe_rlhf_panacea.runs.run_folder import METRICS_FILE, RESULTS_FILE, RUN_FILE, read_record

PROGRAM = "python -m safe_rlhf_panacea.export.card"
CARD_FILE = "README.md"
# Flags of a machine or of how a run was watched, which say nothing of the adapter.
LOCAL_FLAGS = {
    "output_dir",
    "overwrite",
    "resume",
    "log_type",
    "report_to",
    "log_dir",
    "log_project",
    "log_run_name",
    "progress",
    "local_rank",
}


def flag_words(name: str, value: Any) -> Iterator[str]:
    """A flag as it was written, ``--name value …``; nothing for one without a value."""
    if value is None or value == []:
        return
    values = value if isinstance(value, list) else [value]
    parts = ["=".join(map(str, v)) if isinstance(v, list) else _written(v) for v in values]
    yield " ".join([f"--{name}", *(shlex.quote(printable_line(portable(p))) for p in parts)])


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def changed_flags(record: Mapping[str, Any]) -> list[str]:
    """The flags of a training that are not at their defaults, as far as these are known."""
    args = record.get("args")
    args = args if isinstance(args, Mapping) else {}
    defaults = _defaults(record)
    if defaults:  # what the program has no flag for was worked out from others
        args = {k: v for k, v in args.items() if k in defaults and v != defaults[k]}
    kept = ((k, v) for k, v in args.items() if k not in LOCAL_FLAGS and not isinstance(v, Mapping))
    return [word for name, value in kept for word in flag_words(name, value)]


def _defaults(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a program of this version; empty for any other."""
    versions = record.get("versions")
    same = isinstance(versions, Mapping) and versions.get(LIBRARY) == safe_rlhf_panacea.__version__
    module = str(record.get("program", "")).removeprefix("python -m ")
    if not same or module not in {program.module for program in programs("Train")}:
        return {}
    try:
        command = import_module(module).COMMAND
    except (ImportError, AttributeError):
        return {}
    return {one.name: one.default for one in options_of(command.cls).values()}


def read_front(run: str, objectives: Sequence[str]) -> FrontResult:
    """The one front of a run, of the adapter's own objectives.

    Raises:
        UserError: it holds none, several, or one of others.
    """
    fronts = [one.result for one in read_run(parse_run(run))]
    if len(fronts) > 1:
        names = ", ".join(str(front.method) for front in fronts)
        raise UserError(f"{run} holds several fronts ({names}): name one, as in {run}/panacea")
    if list(fronts[0].objectives) != list(objectives):
        found = ", ".join(fronts[0].objectives)
        raise UserError(f"{run} is a front of {found}, the adapter's is of {', '.join(objectives)}")
    return fronts[0]


def read_facts(
    adapter: str | Path,
    *,
    front: str | None = None,
    base_model: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    repo: str | None = None,
) -> Facts:
    """What the files of an adapter, and of an evaluation, say.

    Args:
        adapter: the trained adapter's folder.
        front: an evaluation or a training, as ``evaluation.compare`` takes it; default: what the
            adapter's own training measured.
        base_model: its name on the hub; default: the one that the adapter names.
        name: default: the folder's.
        licence: its id on the hub.
        repo: where the adapter is uploaded to.

    Raises:
        UserError, AdapterError: files that are missing or damaged, or a front of something else.
    """
    folder = Path(adapter)
    config = read_config(folder)
    record = read_record(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    if front is None and any((folder / file).is_file() for file in (FRONT_FILE, RESULTS_FILE)):
        front = str(folder)
    metrics = folder / METRICS_FILE
    lines = read_json_lines(metrics) if metrics.is_file() else []
    steps = lines[-1].get("step") if lines and isinstance(lines[-1], dict) else None
    base = base_model or config.base_model
    return Facts(
        name=printable_line(name or folder.resolve().name),
        config=config,
        base_model=hub_name(base),
        base_folder=Path(base).name if base else "not named",
        record=portable_record(record),
        flags=changed_flags(record),
        steps=steps if isinstance(steps, int) else None,
        front=None if front is None else read_front(front, config.objectives),
        repo=repo,
        licence=licence,
    )


def write_card(facts: Facts, folder: Path) -> list[Path]:
    """Write the card, and the picture where there is a front; the files."""
    text, written = card_text(facts), []
    if facts.front is not None:
        written.append(facts.front.plot(folder / PICTURE_FILE))
    atomic_write_text(folder / CARD_FILE, text)
    return [*written, folder / CARD_FILE]


def licence_id(value: Any) -> str:
    """The id of a licence on the hub."""
    text = kinds.text(value)
    if not HUB_NAME.fullmatch(text) or "/" in text:
        raise ArgumentTypeError(f"{text!r} is no id of a licence, such as apache-2.0")
    return text


@configuration
class CardOptions(TrainedAdapterOptions):
    """Write a trained adapter's model card and the picture of its front into its folder."""

    front: str | None = option(
        text="an evaluation or a training; default: what the adapter's own training measured",
        metavar="RUN",
    )
    name: str | None = option(text="default: the folder's")
    license: str | None = option(
        text="of the adapter, by its id on the hub; default: left open", kind=licence_id
    )
    overwrite: bool = option(False, f"replace a {CARD_FILE} and {PICTURE_FILE} of the folder")


COMMAND = Program(
    CardOptions,
    PROGRAM,
    example=f"{PROGRAM} --adapter runs/latest/panacea-ppo --license apache-2.0",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read, write, and say what was written."""
    args = COMMAND.read(argv)
    facts = read_facts(
        args.adapter,
        front=args.front,
        base_model=args.base_model,
        name=args.name,
        licence=args.license,
    )
    folder = Path(args.adapter)
    names = [CARD_FILE, *([PICTURE_FILE] if facts.front else [])]
    taken = [str(folder / name) for name in names if (folder / name).exists()]
    if taken and not args.overwrite:
        raise UserError(f"{' and '.join(taken)} there already: give --overwrite to replace")
    for path in write_card(facts, folder):
        say(path)


if __name__ == "__main__":
    main()
