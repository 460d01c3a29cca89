"""Draw a run's ``report.html`` anew from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safe_rlhf_panacea.configs import Options, Program, configuration, option
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_folder import EVALUATIONS_FILE, REPORT_FILE
from safe_rlhf_panacea.show.pages import render
from safe_rlhf_panacea.show.writers import Content

PROGRAM = "python -m safe_rlhf_panacea.dashboard"


@configuration
class DashboardOptions(Options):
    """Draw the page of a run anew from its files."""

    run: str = option(
        text="folder of a training that evaluates (--need_eval)", required=True, positional=True
    )
    output: str | None = option(text=f"default: {REPORT_FILE} in the run's folder")
    overwrite: bool = option(False, "replace an --output that is there")


COMMAND = Program(
    DashboardOptions,
    PROGRAM,
    f"""
    Draw the page of a run anew from {EVALUATIONS_FILE} and metrics.jsonl: the growing front,
    indicators, distributions, responses, singular values, training curves.
    """,
    f"{PROGRAM} runs/latest/panacea-ppo --output front.html",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read a run's evaluations, draw its page and write it."""
    options = COMMAND.read(argv)
    evaluations = read_evaluations(options.run)
    if not evaluations:
        raise UserError(f"{options.run} holds no {EVALUATIONS_FILE}: train with --need_eval")
    output = Path(options.output or Path(options.run) / REPORT_FILE)
    if options.output and output.exists() and not options.overwrite:
        raise UserError(f"{output} exists: choose another file or give --overwrite")
    light = [*(evaluation.light() for evaluation in evaluations[:-1]), evaluations[-1]]
    try:
        page = render(Path(options.run).resolve(), Content(light), running=False)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{options.run}: its files are not those of this version: {error!r}"
        ) from error
    try:
        atomic_write_text(output, page)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error
    say(f"Written to {output}")


if __name__ == "__main__":
    main()
