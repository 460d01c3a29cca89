"""Figure 7: the learnt scaling of the preference vector against fixed ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from figure_program import Draw, Report, add_runs, figure_main, of_fronts, read_fronts

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.show.plots import front_figure
from safe_rlhf_panacea.show.tables import Table


def make(args: argparse.Namespace, _: Path) -> tuple[Report, Draw]:
    """Read the evaluations: the learnt scaling first, then from the largest factor down."""
    results = read_fronts(args)
    learnt = sum(result.fixed_scaling is None for result in results)
    if learnt != 1:
        raise UserError(f"{learnt} of --runs have a learnt scaling: give one")
    results.sort(key=lambda result: -(result.fixed_scaling or float("inf")))
    names = ["learnt s", *(f"s = {result.fixed_scaling:g}" for result in results[1:])]
    results = [r.having(label=name) for r, name in zip(results, names, strict=True)]
    volumes = [result.indicators["hypervolume"] for result in results]
    ratios = [[n, volumes[0] / v if v else None] for n, v in zip(names, volumes, strict=True)]
    title = "Hypervolume of the learnt s over that of the fixed"
    report = Report(
        figure="Figure 7",
        title="Learnt and fixed scaling of the preference vector",
        caption="Fronts of the same training but for s, the factor on λ among the singular values.",
        paper_says="Every fixed factor from 1 to 1e-5 gives a significantly worse front than the "
        "learnt one.",
        tables=[Table(title, ["scaling", "ratio"], ratios), *of_fronts(results)["tables"]],
        numbers=dict(ratios),
    )
    return report, lambda: front_figure(results, report.title)


main = figure_main(
    __file__,
    __doc__,
    "--runs runs/evaluation/panacea-ppo runs/evaluation/ablation-* \\\n ",
    lambda parser: add_runs(parser, "evaluations with learnt and fixed scaling, in any order"),
    make,
)

if __name__ == "__main__":
    main()
