"""Figure 7: the learnt scaling of the preference vector against fixed ones."""

from __future__ import annotations

from collections.abc import Sequence

from figure_program import (
    Report,
    add_runs,
    build_parser,
    check_outputs,
    front_tables,
    publish,
    read_fronts,
)

from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.show.plots import front_figure
from safe_rlhf_panacea.show.tables import Table

NAME = "figure_7_scaling_ablation"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the evaluations, draw the figure and write it with its numbers."""
    parser = build_parser(
        f"{NAME}.py",
        "Figure 7: fronts with the learnt scaling factor and with fixed ones.",
        f"python eval/{NAME}.py --runs runs/evaluation/panacea-ppo runs/evaluation/ablation-* \\\n"
        "  --output_dir runs/figures",
    )
    add_runs(parser, "evaluations with learnt and fixed scaling, in any order")
    args = parser.parse_args(argv)
    stem = check_outputs(args, NAME)
    fronts, results = read_fronts(args.runs, args.reference_point)
    factors = [result["fixed_scaling"] for result in results]
    if factors.count(None) != 1:
        raise UserError(f"{factors.count(None)} of --runs have a learnt scaling: give one")
    # The learnt one first, then from the largest factor down.
    order = sorted(range(len(factors)), key=lambda i: -(factors[i] or float("inf")))
    fronts, results = [fronts[i] for i in order], [results[i] for i in order]
    for front, result in zip(fronts, results, strict=True):
        factor = result["fixed_scaling"]
        front.label = result["label"] = "learnt s" if factor is None else f"s = {factor:g}"
    learnt = results[0]["hypervolume"]
    ratios = [
        [r["label"], learnt / r["hypervolume"] if r["hypervolume"] else None] for r in results
    ]
    report = Report(
        figure="Figure 7",
        title="Learnt and fixed scaling of the preference vector",
        caption="Fronts of the same training but for s, the factor on λ among the singular values.",
        paper_says="Every fixed factor from 1 to 1e-5 gives a significantly worse front than the "
        "learnt one.",
        tables=[
            Table(
                "Hypervolume of the learnt s over that of the fixed", ["scaling", "ratio"], ratios
            ),
            *front_tables(results),
        ],
        numbers=dict(ratios),
    )

    def draw() -> object:
        first = results[0]
        return front_figure(fronts, report.title, first["reference_point"], first["axis_labels"])

    publish(stem, report, draw, argv)


if __name__ == "__main__":
    main()
