"""Rewarded Soups: one model per objective, weights interpolated by λ (Rame et al., 2023).

This trains the m models; ``safe_rlhf_panacea.adapter.load_soup`` makes the soup. For a fair
comparison with Panacea's k + m, ``lora_dim`` is k + 1 (appendix D).
"""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.baselines.variants import Baseline, VariantOptions, Variants


def vertices(objectives: Sequence[str]) -> Variants:
    """One variant per objective, in the order of λ."""
    found = {}
    for chosen in objectives:
        vertex = ",".join(f"{name}={int(name == chosen)}" for name in objectives)
        found[chosen] = {"fixed_preference": vertex}
    return found


class SoupOptions(VariantOptions):
    """The options of this program."""

    def variants(self, objectives: Sequence[str]) -> Variants:
        return vertices(objectives)


BASELINE = Baseline(
    SoupOptions,
    "rewarded_soups",
    "Train Rewarded Soups' ingredients: one model per objective, in output_dir/<objective>.",
    """dpo --model_name_or_path runs/sft --objectives helpful harmless \\
      --train_datasets pairs:1:pairs.jsonl --lora_dim 9 --output_dir runs/soups""",
)
plan, main = BASELINE.plan, BASELINE.main

if __name__ == "__main__":
    main()
