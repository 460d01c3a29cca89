"""Figure 4 left: the fronts of Panacea, Rewarded Soups and discrete policies with PPO."""

from __future__ import annotations

from collections.abc import Sequence

from figure_program import Report, compare_methods

from safe_rlhf_panacea.errors import one_line_errors

NAME = "figure_4_left_ppo_fronts"
REPORT = Report(
    figure="Figure 4, left",
    title="Fronts with PPO",
    caption="Mean rewards of sampled responses at every λ; bars are standard errors over prompts, "
    "hollow points are dominated.",
    paper_says="Panacea's front is the broadest, smooth and convex, and dominates those of "
    "Rewarded Soups and of discrete policies, with one model for all λ.",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the evaluations, draw the figure and write it with its numbers."""
    compare_methods(
        NAME,
        "reward",
        "Figure 4 left: fronts of several methods with PPO in one picture.",
        f"python eval/{NAME}.py --runs runs/evaluation/panacea-ppo \\\n"
        "  runs/evaluation/rewarded-soups-ppo runs/evaluation/discrete-policies-ppo \\\n"
        "  --output_dir runs/figures",
        REPORT,
        argv,
    )


if __name__ == "__main__":
    main()
