"""Figure 5: the fronts of implicit-reward accuracies with DPO, LS and Tchebycheff."""

from __future__ import annotations

from collections.abc import Sequence

from figure_program import Report, compare_methods

from safe_rlhf_panacea.errors import one_line_errors

NAME = "figure_5_dpo_fronts"
REPORT = Report(
    figure="Figure 5",
    title="Fronts with DPO",
    caption="Share of labelled pairs that the implicit reward orders as each objective's label "
    "does, at every λ; bars are standard errors, hollow points are dominated.",
    paper_says="With either aggregation, linear scalarisation or Tchebycheff, Panacea's front is "
    "better than that of Rewarded Soups.",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the evaluations, draw the figure and write it with its numbers."""
    compare_methods(
        NAME,
        "accuracy",
        "Figure 5: fronts of several methods with DPO in one picture.",
        f"python eval/{NAME}.py --runs runs/evaluation/panacea-dpo-ls \\\n"
        "  runs/evaluation/panacea-dpo-tche runs/evaluation/rewarded-soups-dpo \\\n"
        "  --output_dir runs/figures",
        REPORT,
        argv,
    )


if __name__ == "__main__":
    main()
