"""The model card of a trained adapter: ``README.md`` beside it, and its front as a picture."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import safe_rlhf_panacea
from safe_rlhf_panacea.command import programs
from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.training import TrainedAdapterOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.hub import HUB_NAME
from safe_rlhf_panacea.io import atomic_write_text, read_json_lines
from safe_rlhf_panacea.printing import markdown_text, printable, printable_line, say
from safe_rlhf_panacea.runs.run_folder import METRICS_FILE, RESULTS_FILE, RUN_FILE, read_record

if TYPE_CHECKING:
    from safe_rlhf_panacea.fronts.result import FrontResult

PROGRAM = "python -m safe_rlhf_panacea.export.card"
CARD_FILE, PICTURE_FILE = "README.md", "front.png"
LIBRARY = "safe-rlhf-panacea"
# Flags of a machine or of how a run was watched, which say nothing of the adapter.
LOCAL_FLAGS = {
    *("output_dir", "overwrite", "resume", "log_type", "report_to", "log_dir", "log_project"),
    *("log_run_name", "progress", "local_rank"),
}
# An absolute path in a flag's value, which may stand behind `name:1:` or `helpful=`; a URL with
# its host and port.
PATH = re.compile(
    r"(?<![\w.~-])(?:[A-Za-z][\w+.-]*://[^=,;?]*|(?:~[\w-]*|[A-Za-z]:)?[/\\][^:=,;?]*)"
)
USER = re.compile(r"~[^/\\]*|/(home|Users)/[^/]*")  # no more than somebody's own folder
# Of run.json; neither the environment nor what happened on the way.
SHARED_KEYS = (
    *("program", "processes", "started_at", "finished_at", "training_seconds", "args", "data"),
    *("adapted_share", "versions", "git"),
)


def portable(value: Any) -> Any:
    """A value of a record, of any depth, with absolute paths cut to their last part."""

    def last_part(match: re.Match[str]) -> str:
        text = match[0].rstrip("/\\")
        is_home = str(Path.home()).startswith(text) or USER.fullmatch(text)
        return "~" if is_home else re.split(r"[/\\]", text)[-1]

    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return PATH.sub(last_part, value) if isinstance(value, str) else value


def portable_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``run.json`` may leave the machine."""
    return {key: portable(record[key]) for key in SHARED_KEYS if key in record}


def hub_name(model: str | None) -> str | None:
    """The name that others find a model by; None for a folder of this machine."""
    from safe_rlhf_panacea.models.files import is_local

    return None if model is None or is_local(model) else model


def changed_flags(record: Mapping[str, Any]) -> Iterator[str]:
    """The flags of a training, as they were written, but for those at their defaults.

    Of a version or a program whose defaults are not known, all of them.
    """
    args, versions = record.get("args"), record.get("versions")
    args = args if isinstance(args, Mapping) else {}
    same = isinstance(versions, Mapping) and versions.get(LIBRARY) == safe_rlhf_panacea.__version__
    module = str(record.get("program", "")).removeprefix("python -m ")
    if same and module in {program.module for program in programs("Train")}:
        command = getattr(import_module(module), "COMMAND", None)
        if command is not None:  # what it has no flag for was worked out from others
            defaults = {name: one.default for name, one in command.cls.OPTIONS.items()}
            args = {k: v for k, v in args.items() if k in defaults and v != defaults[k]}
    for name, value in args.items():
        if name in LOCAL_FLAGS or isinstance(value, Mapping) or value is None or value == []:
            continue
        words = [f"--{name}"]
        for part in value if isinstance(value, list) else [value]:
            text = str(part).lower() if isinstance(part, bool) else str(part)
            if isinstance(part, list):
                text = "=".join(map(str, part))
            words.append(shlex.quote(printable_line(portable(text))))
        yield " ".join(words)


def find_front(
    adapter: Path, objectives: Sequence[str], run: str | None = None
) -> FrontResult | None:
    """The one front of a run, as ``evaluation.compare`` takes it; default: the adapter's own."""
    from safe_rlhf_panacea.fronts.result import FRONT_FILE
    from safe_rlhf_panacea.fronts.runs import parse_run, read_run

    if run is None:
        if not any((adapter / file).is_file() for file in (FRONT_FILE, RESULTS_FILE)):
            return None
        run = str(adapter)
    fronts = read_run(parse_run(run))
    if len(fronts) > 1:
        names = ", ".join(str(front.method) for front in fronts)
        raise UserError(f"{run} holds several fronts ({names}): name one, as in {run}/panacea")
    if list(fronts[0].objectives) != list(objectives):
        found = ", ".join(fronts[0].objectives)
        raise UserError(f"{run} is a front of {found}, the adapter's is of {', '.join(objectives)}")
    return fronts[0]


def _told(record: Mapping[str, Any], metrics: Path) -> str:
    """Steps, seconds and processes of a training, as far as they are known."""
    lines = read_json_lines(metrics) if metrics.is_file() else []
    steps = lines[-1].get("step") if lines and isinstance(lines[-1], dict) else None
    seconds, processes = record.get("training_seconds"), record.get("processes")
    parts = [f"{steps} steps"] if isinstance(steps, int) else []
    if isinstance(seconds, int | float):
        parts.append(f"{seconds:.0f} s")
    if isinstance(processes, int) and processes > 1:
        parts.append(f"{processes} processes")
    return ", ".join(parts)


def _code(text: str, language: str) -> str:
    """A block of code in a fence that nothing in it can close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{printable(text.rstrip())}\n{fence}\n"


def _rendered(**values: Any) -> str:
    """The template; what comes from files is shown as it is, never as Markdown."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from safe_rlhf_panacea.show.tables import Table, front_rows, indicators_table

    environment = Environment(
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else markdown_text(value),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": _code,
        "plain": Markup,
        "quoted": lambda text: Markup(shlex.quote(str(text))),
        "json": lambda value: Markup(json.dumps(value, ensure_ascii=False)),
    }
    tables = {"Table": Table, "front_rows": front_rows, "indicators_table": indicators_table}
    template = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(**tables, **values)


def write_card(
    adapter: str | Path,
    folder: Path,
    *,
    front: str | None = None,
    base_model: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    repo: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write an adapter's card into a folder, and the picture where there is a front.

    ``front``, ``base_model``, ``name``, ``licence`` and ``overwrite`` are the options of the
    program; ``repo`` is where the adapter is uploaded to.

    Raises:
        UserError, AdapterError: files that are missing, damaged or there already, or a front of
            something else.
    """
    import torch

    from safe_rlhf_panacea.adapter.io import read_config
    from safe_rlhf_panacea.export.vllm_resolver import padded_rank
    from safe_rlhf_panacea.preference import format_preference

    adapter = Path(adapter)
    config = read_config(adapter)
    record = read_record(adapter / RUN_FILE) if (adapter / RUN_FILE).is_file() else {}
    measured = find_front(adapter, config.objectives, front)
    files = [folder / PICTURE_FILE, folder / CARD_FILE] if measured else [folder / CARD_FILE]
    taken = [str(file) for file in reversed(files) if file.exists()]
    if taken and not overwrite:
        raise UserError(f"{' and '.join(taken)} there already: give --overwrite to replace")
    base, shown = base_model or config.base_model, portable_record(record)
    program = printable_line(shown.get("program", ""))
    found = re.search(r"\.([A-Za-z_]\w*)$", program, re.ASCII)
    m = config.pref_dim
    weights = [1.0] if m == 1 else [0.7, 0.3, *[0.0] * (m - 2)][:m]
    text = _rendered(
        algorithm=found and found[1],
        base_folder=Path(base).name if base else "not named",
        base_model=hub_name(base),
        command=" \\\n  ".join([program, *changed_flags(record)]),
        config=config,
        front=measured,
        licence=licence,
        name=printable_line(name or adapter.resolve().name),
        preference=format_preference(torch.tensor(weights), config.names) if m else "",
        record=shown,
        repo=repo,
        told=_told(shown, adapter / METRICS_FILE),
        version=safe_rlhf_panacea.__version__,
        vllm_rank=padded_rank(config.rank) if m else None,
        weights=dict(zip(config.names, weights, strict=True)),
    )
    if measured:
        measured.plot(folder / PICTURE_FILE)
    atomic_write_text(folder / CARD_FILE, text)
    return files


def licence_id(value: Any) -> str:
    """The id of a licence on the hub."""
    text = kinds.text(value)
    if not HUB_NAME.fullmatch(text) or "/" in text:
        raise UserError(f"{text!r} is no id of a licence, such as apache-2.0")
    return text


class CardOptions(TrainedAdapterOptions):
    """Write a trained adapter's model card and the picture of its front into its folder."""

    front: str | None = option(
        text="an evaluation or a training; default: what the adapter's own training measured",
        metavar="RUN",
    )
    name: str | None = option(text="default: the folder's")
    license: Annotated[str, licence_id] | None = option(
        text="of the adapter, by its id on the hub; default: left open"
    )
    overwrite: bool = option(False, f"replace a {CARD_FILE} and {PICTURE_FILE} of the folder")


COMMAND = Program(
    CardOptions,
    PROGRAM,
    example=f"{PROGRAM} --adapter runs/latest/panacea-ppo --license apache-2.0",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the card, and say what was written."""
    args = COMMAND.read(argv)
    files = write_card(
        args.adapter,
        Path(args.adapter),
        front=args.front,
        base_model=args.base_model,
        name=args.name,
        licence=args.license,
        overwrite=args.overwrite,
    )
    for path in files:
        say(path)


if __name__ == "__main__":
    main()
