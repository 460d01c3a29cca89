"""Several runs side by side: ``python -m safe_rlhf_panacea.evaluation.compare``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from textwrap import fill

from safe_rlhf_panacea.configs import Options, Program, kinds, option
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.compare import compare
from safe_rlhf_panacea.fronts.runs import FORMS, parse_run, read_run
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_folder import check_own_output, prepare_output_dir
from safe_rlhf_panacea.runs.run_record import write_run_record
from safe_rlhf_panacea.show.pages import comparison_page
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from safe_rlhf_panacea.show.tables import comparison_text, fronts_title

PROGRAM = "python -m safe_rlhf_panacea.evaluation.compare"
NUMBERS, PICTURE, PAGE = "compare.json", "compare.png", "compare.html"
LABEL_WIDTH = 24  # characters in a line of the legend; panels have room for twice as many


class CompareOptions(Options):
    """Compare the fronts of several runs.

    All indicators are from one reference point, and every difference is to the first run at the
    same λ. With --output_dir also a picture, the numbers as JSON and a page that opens without a
    network.

    A RUN is the folder of an evaluation; that of a training run that was evaluated, with
    @STEP for an earlier evaluation; or the quickstart's with :EXPERIMENT for all of its
    methods or :EXPERIMENT/METHOD for one. LABEL=RUN names it.
    """

    runs: tuple[kinds.Text, ...] = option(
        None, FORMS, metavar="RUN", required=True, positional=True
    )
    baseline: kinds.Text | None = option(None, "default: the first run", metavar="LABEL")
    reference_point: tuple[float, ...] | None = option(
        text="of all hypervolumes; default: the runs' own, or the lowest of them"
    )
    output_dir: str | None = option(text="default: tables on the terminal only")
    overwrite: bool = option(False, "replace a comparison that the folder already holds")


COMMAND = Program(
    CompareOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} runs/front-panacea runs/front-soups
    {PROGRAM} ours=runs/latest/panacea-ppo early=runs/latest/panacea-ppo@96 \\
      runs/latest:ppo/rewarded_soups --baseline ours --output_dir runs/comparison
    """,
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read, compare, print, and write where asked."""
    options = COMMAND.read(argv)
    locations = [parse_run(text) for text in options.runs]
    if options.output_dir is not None:
        path = check_own_output(options.output_dir, PROGRAM, options.overwrite)
        if any(path.resolve() == location.folder.resolve() for location in locations):
            raise UserError(f"{path} is one of the runs: choose another output folder")
    runs = [run for location in locations for run in read_run(location)]
    comparison = compare(runs, options.reference_point, options.baseline)
    text = comparison_text(comparison)
    if options.output_dir is not None:
        width = LABEL_WIDTH if len(comparison.objectives) == 2 else 2 * LABEL_WIDTH
        shown = [run.having(label=fill(run.label, width)) for run in comparison.runs]
        figure = front_figure(shown, fronts_title(comparison.runs))
        folder = prepare_output_dir(options.output_dir, overwrite=options.overwrite)
        atomic_write_json(folder / NUMBERS, comparison.to_json())
        save_picture(figure, folder / PICTURE)
        command = f"{PROGRAM} {shlex.join(sys.argv[1:] if argv is None else argv)}"
        page = comparison_page(comparison, (folder / PICTURE).read_bytes(), command)
        atomic_write_text(folder / PAGE, page)
        # The record last: it says that the folder is complete.
        write_run_record(folder, options, {"program": PROGRAM})
        text += f"\n\nWritten to {folder}: {PAGE}, {PICTURE}, {NUMBERS}"
    say(text)


if __name__ == "__main__":
    main()
