"""Discrete Policy Solutions: one model per preference vector (section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safe_rlhf_panacea.baselines.variants import Baseline, VariantOptions, Variants
from safe_rlhf_panacea.configs import kinds, option

if TYPE_CHECKING:
    from torch import Tensor


def grid_variants(grid: Tensor) -> Variants:
    """One variant per row of ``grid``, size = (N, m), in its order; a folder as ``0.25_0.75``."""
    rows = [[f"{value:.6g}" for value in row] for row in grid.tolist()]
    return {"_".join(row): {"fixed_preference": ",".join(row)} for row in rows}


class DiscretePoliciesOptions(VariantOptions):
    """The options of this program."""

    grid_step: kinds.Positive | None = option(
        None, "of λ, a model each; default: 0.1 (11 for m = 2), coarser from 5 objectives on"
    )

    def variants(self, objectives: Sequence[str]) -> Variants:
        from safe_rlhf_panacea.preference import default_grid, preference_grid

        m, step = len(objectives), self.grid_step
        return grid_variants(default_grid(m) if step is None else preference_grid(m, step))


BASELINE = Baseline(
    DiscretePoliciesOptions,
    "discrete_policies",
    "Train Discrete Policy Solutions: one model per λ of a grid, in output_dir/<λ>.",
    """ppo --grid_step 0.1 --actor_model_name_or_path runs/sft \\
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
      --train_datasets prompts:1:prompts.jsonl --lora_dim 9 --output_dir runs/discrete""",
)
plan, main = BASELINE.plan, BASELINE.main

if __name__ == "__main__":
    main()
