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
    results = read_fronts(args.runs, args.reference_point)
    factors = [result.fixed_scaling for result in results]
    if factors.count(None) != 1:
        raise UserError(f"{factors.count(None)} of --runs have a learnt scaling: give one")
    # The learnt one first, then from the largest factor down.
    results.sort(key=lambda result: -(result.fixed_scaling or float("inf")))
    names = ["learnt s", *(f"s = {result.fixed_scaling:g}" for result in results[1:])]
    results = [r.having(label=name) for r, name in zip(results, names, strict=True)]
    volumes = [result.indicators["hypervolume"] for result in results]
    ratios = [[n, volumes[0] / v if v else None] for n, v in zip(names, volumes, strict=True)]
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
    publish(stem, report, lambda: front_figure(results, report.title), argv)


if __name__ == "__main__":
    main()
