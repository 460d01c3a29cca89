"""Rewarded Soups: one model per objective, weights interpolated by λ (Rame et al., 2023).

This trains the m models; ``safe_rlhf_panacea.adapter.load_soup`` makes the soup.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safe_rlhf_panacea.baselines.variants import (
    Variants,
    build_parser,
    objectives_of,
    parse_flags,
    train_variants,
)
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.baselines.rewarded_soups"


def vertices(algorithm: str, flags: Sequence[str]) -> Variants:
    """One variant per objective, in the order of λ."""
    objectives = objectives_of(parse_flags(algorithm, flags))
    vectors = {
        name: ",".join(f"{other}={int(other == name)}" for other in objectives)
        for name in objectives
    }
    return {name: ["--fixed_preference", vector] for name, vector in vectors.items()}


def train_soup(algorithm: str, flags: Sequence[str]) -> dict[str, Path]:
    """Train the ingredients; objective to folder, in the order of λ.

    Args:
        algorithm: ``dpo``, ``grpo`` or ``ppo``.
        flags: the algorithm's; ``--lora_dim`` is k + 1 for a fair comparison with Panacea's
            k + m (appendix D).
    """
    return train_variants(algorithm, flags, vertices(algorithm, flags))


def plan(argv: Sequence[str] | None) -> tuple[str, list[str], Variants]:
    """The algorithm, its flags and the variants that a command line asks for."""
    parser = build_parser(
        PROGRAM,
        "Train Rewarded Soups' ingredients: one model per objective, in output_dir/<objective>.",
        f"{PROGRAM} dpo --model_name_or_path runs/sft --objectives helpful harmless \\\n"
        "  --train_datasets pairs:1:pairs.jsonl --lora_dim 9 --output_dir runs/soups",
    )
    args, flags = parser.parse_known_args(argv)
    return args.algorithm, flags, vertices(args.algorithm, flags)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train one model per objective, each into ``output_dir/<objective>``."""
    train_variants(*plan(argv))


if __name__ == "__main__":
    main()
