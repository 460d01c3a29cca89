"""Figure 5: the fronts of implicit-reward accuracies with DPO, LS and Tchebycheff."""

from __future__ import annotations

from figure_program import methods_main

main = methods_main(
    __file__,
    __doc__,
    "accuracy",
    "--runs runs/evaluation/panacea-dpo-ls \\\n"
    "  runs/evaluation/panacea-dpo-tche runs/evaluation/rewarded-soups-dpo \\\n ",
    figure="Figure 5",
    title="Fronts with DPO",
    caption="Share of labelled pairs that the implicit reward orders as each objective's "
    "label does, at every λ; bars are standard errors, hollow points are dominated.",
    paper_says="With either aggregation, linear scalarisation or Tchebycheff, Panacea's "
    "front is better than that of Rewarded Soups.",
)

if __name__ == "__main__":
    main()
