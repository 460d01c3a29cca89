"""What the figure programs share: flags, reading evaluations, and the files that each leaves.

Every program reads folders that ``python -m safe_rlhf_panacea.evaluation`` wrote and leaves
``<name>.png``, ``<name>.pdf``, ``<name>.json`` (numbers, caption, the command that made it) and
``<name>.csv`` (its tables) in ``--output_dir``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag
from safe_rlhf_panacea.configs.kinds import filled, finite_float
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.compare import check_comparable
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.show.plots import SUFFIXES, front_figure, save_picture
from safe_rlhf_panacea.show.tables import Table, as_csv, indicators_table, points_table

FORMAT = 1


@dataclass
class Report:
    """What a figure says besides its picture."""

    figure: str  # its name in the paper, or what it is
    title: str
    caption: str  # how to read it
    paper_says: str = ""  # in one sentence; empty beyond the paper
    tables: list[Table] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)  # further ones, for programs
    html: str = ""  # inline, in place of a picture


Draw = Callable[[], Any]  # makes the matplotlib figure


def file_name(value: str) -> str:
    """A name without folders."""
    if "/" in value or "\\" in value or value in (".", ".."):
        raise UserError(f"{value!r} is a path, not a name")
    return filled(value)


def figure_main(
    file: str,
    description: str | None,
    flags: str,
    add_flags: Callable[[argparse.ArgumentParser], object],
    make: Callable[[argparse.Namespace, Path], tuple[Report, Draw | None]],
    name_of: Callable[[argparse.Namespace], str] | None = None,
) -> Callable[..., Any]:
    """The ``main`` of a figure program.

    Args:
        file: of the program.
        description: for ``--help``.
        flags: an example of its own flags.
        add_flags: adds these to a parser.
        make: from the arguments and the files' common beginning to what the figure says and how
            it is drawn, None for a figure of text.
        name_of: the files' default name; default: the program's.
    """
    program = Path(file).stem

    @one_line_errors
    def main(argv: Sequence[str] | None = None) -> None:
        example = f"python eval/{program}.py {flags} --output_dir runs/figures"
        parser = ArgumentParser(f"python eval/{program}.py", description or "", example)
        text = "folder for picture and numbers"
        parser.add_argument("--output_dir", type=filled, required=True, help=text)
        parser.add_argument("--name", type=file_name, help="of the files; default: the program's")
        add_flag(parser, "--overwrite", False, "replace the files of an earlier call")
        add_flags(parser)
        args = parser.parse_args(argv)
        stem = Path(args.output_dir) / (args.name or (name_of(args) if name_of else program))
        if stem.with_suffix(".json").exists() and not args.overwrite:
            raise UserError(f"{stem}.json exists: choose another --output_dir or give --overwrite")
        report, draw = make(args, stem)
        pictures = []
        if draw is not None:
            figure = draw()
            for suffix in SUFFIXES:
                save_picture(figure, stem.with_suffix(suffix))
                pictures.append(stem.name + suffix)
        if report.tables:
            atomic_write_text(stem.with_suffix(".csv"), as_csv(report.tables))
        words = [f"eval/{Path(sys.argv[0]).name}", *sys.argv[1:]] if argv is None else list(argv)
        command = f"python {shlex.join(words)}"
        body = {"format": FORMAT, **asdict(report), "command": command, "pictures": pictures}
        # The JSON last: it says that all is there.
        atomic_write_json(stem.with_suffix(".json"), body)
        say(f"Written to {stem.parent}: {', '.join([*pictures, stem.name + '.json'])}")

    return main


# -- figures of fronts ----------------------------------------------------------------------


def add_runs(parser: argparse.ArgumentParser, text: str) -> None:
    """Several evaluations, and the point from which their hypervolumes are measured."""
    parser.add_argument("--runs", nargs="+", required=True, metavar="FOLDER", help=text)
    parser.add_argument(
        "--reference_point", type=finite_float, nargs="+", help="default: the evaluations' own"
    )


def read_fronts(args: argparse.Namespace, kind: str | None = None) -> list[FrontResult]:
    """Fronts that can stand in one picture, measured from one reference point.

    Raises:
        UserError: they differ in objectives, kind or reference point, or are of another kind.
    """
    loaded = [FrontResult.load(folder) for folder in args.runs]
    check_comparable(loaded, args.runs)
    first = loaded[0]
    for folder, result in zip(args.runs, loaded, strict=True):
        if result.cost is None:
            raise UserError(f"{folder}: cost is missing: evaluate anew")
        if kind is not None and result.kind != kind:
            raise UserError(f"{folder} holds an evaluation of kind {result.kind}, not {kind}")
        if args.reference_point is None and result.reference_point != first.reference_point:
            raise UserError(
                f"{folder} and {args.runs[0]} have different reference points: "
                "give one with --reference_point"
            )
    return [one.measured_from(args.reference_point or first.reference_point) for one in loaded]


def of_fronts(results: Sequence[FrontResult]) -> dict[str, Any]:
    """A report's tables, indicators and cost of each and every point, and its hypervolumes."""
    keys = ("training_seconds", "stored_parameters", "trained_models")
    cost = {key: [getattr(result.cost, key) for result in results] for key in keys}
    volumes = {result.label: result.indicators["hypervolume"] for result in results}
    return {
        "tables": [indicators_table(results, **cost), points_table(results)],
        "numbers": volumes,
    }


def methods_main(
    file: str, description: str | None, kind: str, flags: str, **about: str
) -> Callable[..., Any]:
    """The ``main`` of a figure with the fronts of several methods; ``about`` is what it says.

    ``kind`` is that of the evaluations, ``reward`` or ``accuracy``; ``flags`` are an example.
    """

    def make(args: argparse.Namespace, _: Path) -> tuple[Report, Draw]:
        results = read_fronts(args, kind)
        report = Report(**about, **of_fronts(results))
        return report, lambda: front_figure(results, report.title)

    text = f"evaluations of kind {kind}, Panacea's first: λ is written along it"
    return figure_main(file, description, flags, lambda parser: add_runs(parser, text), make)
