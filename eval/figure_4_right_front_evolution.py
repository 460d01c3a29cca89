"""Figure 4 right: the front at several steps of training."""

from __future__ import annotations

from collections.abc import Sequence

from figure_program import (
    Report,
    add_runs,
    build_parser,
    check_outputs,
    front_tables,
    hypervolumes,
    publish,
    read_fronts,
)

from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.show.plots import front_figure, sequential_colours

NAME = "figure_4_right_front_evolution"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the evaluations, draw the figure and write it with its numbers."""
    parser = build_parser(
        f"{NAME}.py",
        "Figure 4 right: how the front grows, from evaluations of a run's checkpoints.",
        f"python eval/{NAME}.py --runs runs/evaluation/panacea-ppo-step-* \\\n"
        "  --output_dir runs/figures",
    )
    add_runs(parser, "evaluations of adapters in checkpoints/adapter/step-N")
    args = parser.parse_args(argv)
    stem = check_outputs(args, NAME)
    results = read_fronts(args.runs, args.reference_point)
    for folder, result in zip(args.runs, results, strict=True):
        if result.step is None:
            raise UserError(f"{folder} is no checkpoint's: evaluate checkpoints/adapter/step-N")
    results.sort(key=lambda result: -result.step)  # the last on top
    results = [result.having(label=f"step {result.step}") for result in results]
    report = Report(
        figure="Figure 4, right",
        title="The front at several steps of training",
        caption="The same run evaluated on its way; the later, the darker.",
        paper_says="The model learns harmlessness first, then helpfulness, and finally recovers "
        "the whole front.",
        tables=front_tables(results),
        numbers=hypervolumes(results),
    )

    def draw() -> object:
        return front_figure(results, report.title, sequential_colours(len(results))[::-1])

    publish(stem, report, draw, argv)


if __name__ == "__main__":
    main()
