"""Rewarded Soups: one model per objective, weights interpolated by λ (Rame et al., 2023).

This trains the m models; ``safe_rlhf_panacea.adapter.load_soup`` makes the soup. For a fair
comparison with Panacea's k + m, ``lora_dim`` is k + 1 (appendix D).
"""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.baselines.variants import FURTHER, Baseline, VariantOptions, Variants

PROGRAM = "python -m safe_rlhf_panacea.baselines.rewarded_soups"


def vertices(objectives: Sequence[str]) -> Variants:
    """One variant per objective, in the order of λ."""

    def vertex(chosen: str) -> str:
        return ",".join(f"{name}={int(name == chosen)}" for name in objectives)

    return {name: {"fixed_preference": vertex(name)} for name in objectives}


class SoupOptions(VariantOptions):
    """The options of this program."""

    def variants(self, objectives: Sequence[str]) -> Variants:
        return vertices(objectives)


BASELINE = Baseline(
    SoupOptions,
    PROGRAM,
    "Train Rewarded Soups' ingredients: one model per objective, in output_dir/<objective>."
    + FURTHER,
    f"""
    {PROGRAM} dpo --model_name_or_path runs/sft --objectives helpful harmless \\
      --train_datasets pairs:1:pairs.jsonl --lora_dim 9 --output_dir runs/soups
    """,
)
plan, main = BASELINE.plan, BASELINE.main

if __name__ == "__main__":
    main()
