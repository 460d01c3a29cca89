"""Figure 4 left: the fronts of Panacea, Rewarded Soups and discrete policies with PPO."""

from __future__ import annotations

from figure_program import methods_main

main = methods_main(
    __file__,
    __doc__,
    "reward",
    "--runs runs/evaluation/panacea-ppo \\\n"
    "  runs/evaluation/rewarded-soups-ppo runs/evaluation/discrete-policies-ppo \\\n ",
    figure="Figure 4, left",
    title="Fronts with PPO",
    caption="Mean rewards of sampled responses at every λ; bars are standard errors over "
    "prompts, hollow points are dominated.",
    paper_says="Panacea's front is the broadest, smooth and convex, and dominates those of "
    "Rewarded Soups and of discrete policies, with one model for all λ.",
)

if __name__ == "__main__":
    main()
