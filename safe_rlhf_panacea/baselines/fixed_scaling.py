"""The ablation of section 5.2: Panacea with s fixed instead of learnt (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.baselines.variants import Baseline, VariantOptions, Variants
from safe_rlhf_panacea.configs import option

FACTORS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


class FixedScalingOptions(VariantOptions):
    """The options of this program."""

    factors: tuple[float, ...] = option(FACTORS, "values of s, a model each")

    def variants(self, objectives: Sequence[str]) -> Variants:
        return {f"{factor:g}": {"fixed_scaling": factor} for factor in self.factors}


BASELINE = Baseline(
    FixedScalingOptions,
    "fixed_scaling",
    "Train Panacea with s fixed at several factors, in output_dir/<factor>.",
    """dpo --factors 1 1e-2 --model_name_or_path runs/sft \\
      --objectives helpful harmless --train_datasets pairs:1:pairs.jsonl \\
      --output_dir runs/fixed-scaling""",
)
plan, main = BASELINE.plan, BASELINE.main

if __name__ == "__main__":
    main()
