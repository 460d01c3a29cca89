"""The ablation of section 5.2: Panacea with s fixed instead of learnt (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.base.arguments import finite_float
from safe_rlhf_panacea.baselines.variants import Variants, build_parser, train_variants
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.baselines.fixed_scaling"
FACTORS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def plan(argv: Sequence[str] | None) -> tuple[str, list[str], Variants]:
    """The algorithm, its flags and the variants that a command line asks for."""
    parser = build_parser(
        PROGRAM,
        "Train Panacea with s fixed at several factors, in output_dir/<factor>.",
        f"{PROGRAM} dpo --factors 1 1e-2 --model_name_or_path runs/sft \\\n"
        "  --objectives helpful harmless --train_datasets pairs:1:pairs.jsonl \\\n"
        "  --output_dir runs/fixed-scaling",
    )
    parser.add_argument("--factors", type=finite_float, nargs="+", default=list(FACTORS))
    args, flags = parser.parse_known_args(argv)
    variants = {f"{factor:g}": ["--fixed_scaling", f"{factor:g}"] for factor in args.factors}
    return args.algorithm, flags, variants


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train one model per factor, each into ``output_dir/<factor>``."""
    train_variants(*plan(argv))


if __name__ == "__main__":
    main()
