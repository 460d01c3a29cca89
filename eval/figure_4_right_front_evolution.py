"""Figure 4 right: how the front grows, from evaluations of a run's checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from figure_program import Draw, Report, add_runs, figure_main, of_fronts, read_fronts

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.show.plots import front_figure, sequential_colours


def make(args: argparse.Namespace, _: Path) -> tuple[Report, Draw]:
    """Read the evaluations of the checkpoints, the last on top."""
    results = read_fronts(args)
    for folder, result in zip(args.runs, results, strict=True):
        if result.step is None:
            raise UserError(f"{folder} is no checkpoint's: evaluate checkpoints/adapter/step-N")
    results.sort(key=lambda result: -result.step)
    results = [result.having(label=f"step {result.step}") for result in results]
    report = Report(
        figure="Figure 4, right",
        title="The front at several steps of training",
        caption="The same run evaluated on its way; the later, the darker.",
        paper_says="The model learns harmlessness first, then helpfulness, and finally recovers "
        "the whole front.",
        **of_fronts(results),
    )
    colours = sequential_colours(len(results))[::-1]
    return report, lambda: front_figure(results, report.title, colours)


main = figure_main(
    __file__,
    __doc__,
    "--runs runs/evaluation/panacea-ppo-step-* \\\n ",
    lambda parser: add_runs(parser, "evaluations of adapters in checkpoints/adapter/step-N"),
    make,
)

if __name__ == "__main__":
    main()
