"""Several runs side by side: ``python -m safe_rlhf_panacea.evaluation.compare``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from safe_rlhf_panacea.base.arguments import ArgumentParser, add_flag, filled, finite_float
from safe_rlhf_panacea.base.run_record import check_own_output, prepare_output_dir, write_run_record
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.compare import FrontComparison, compare
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.fronts.runs import FORMS, RunLocation, parse_run, read_run
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.show.pages import comparison_page
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from safe_rlhf_panacea.show.tables import comparison_text, fronts_title

PROGRAM = "python -m safe_rlhf_panacea.evaluation.compare"
NUMBERS, PICTURE, PAGE = "compare.json", "compare.png", "compare.html"
LABEL_WIDTH = 24  # characters in a line of the legend; panels have room for twice as many


def build_parser() -> argparse.ArgumentParser:
    """The parser of this program's flags."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Compare the fronts of several runs: all indicators from one reference point, and the
        difference at every λ against the first run. With --output_dir also a picture, the
        numbers as JSON and a page that opens without a network.

        A RUN is the folder of an evaluation; that of a training run that was evaluated, with
        @STEP for an earlier evaluation; or the quickstart's with :EXPERIMENT for all of its
        methods or :EXPERIMENT/METHOD for one. LABEL=RUN names it.
        """,
        f"""
        {PROGRAM} runs/front-panacea runs/front-soups
        {PROGRAM} ours=runs/latest/panacea-ppo early=runs/latest/panacea-ppo@96 \\
          runs/latest:ppo/rewarded_soups --baseline ours --output_dir runs/comparison
        """,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=FORMS)
    parser.add_argument("--baseline", metavar="LABEL", help="default: the first run")
    parser.add_argument(
        "--reference_point",
        type=finite_float,
        nargs="+",
        help="of all hypervolumes; default: the runs' own, or the lowest of them",
    )
    parser.add_argument("--output_dir", type=filled, help="default: tables on the terminal only")
    add_flag(parser, "--overwrite", False, "replace a comparison that the folder already holds")
    return parser


def check_output(folder: str, overwrite: bool, runs: Sequence[RunLocation]) -> None:
    """Whether the comparison may be written there.

    Raises:
        UserError: the folder holds a run, or is one of those compared.
    """
    path = check_own_output(folder, PROGRAM, overwrite)
    if any(path.resolve() == run.folder.resolve() for run in runs):
        raise UserError(f"{path} is one of the runs: choose another output folder")


def picture_front(front: FrontResult) -> FrontResult:
    """The front with a label of short lines."""
    width = LABEL_WIDTH if len(front.objectives) == 2 else 2 * LABEL_WIDTH
    return front.having(label=fill(front.label, width))


def write_comparison(args: argparse.Namespace, comparison: FrontComparison, command: str) -> Path:
    """Numbers, picture, page, and the record last: it says that the folder is complete."""
    title = fronts_title(comparison.runs)
    figure = front_figure([picture_front(run) for run in comparison.runs], title)
    folder = prepare_output_dir(args.output_dir, overwrite=args.overwrite)
    atomic_write_json(folder / NUMBERS, comparison.to_json())
    save_picture(figure, folder / PICTURE)
    page = comparison_page(comparison, (folder / PICTURE).read_bytes(), command)
    atomic_write_text(folder / PAGE, page)
    write_run_record(folder, args, {"program": PROGRAM})
    return folder


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read, compare, print, and write where asked."""
    args = build_parser().parse_args(argv)
    locations = [parse_run(text) for text in args.runs]
    if args.output_dir is not None:
        check_output(args.output_dir, args.overwrite, locations)
    runs = [run for location in locations for run in read_run(location)]
    comparison = compare(runs, args.reference_point, args.baseline)
    written = ""
    if args.output_dir is not None:
        command = f"{PROGRAM} {shlex.join(sys.argv[1:] if argv is None else argv)}"
        folder = write_comparison(args, comparison, command)
        written = f"\n\nWritten to {folder}: {PAGE}, {PICTURE}, {NUMBERS}"
    say(comparison_text(comparison) + written)


if __name__ == "__main__":
    main()
