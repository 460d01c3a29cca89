"""Discrete Policy Solutions: one model per preference vector (section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safe_rlhf_panacea.base.arguments import positive_float
from safe_rlhf_panacea.baselines.variants import (
    Variants,
    build_parser,
    objectives_of,
    parse_flags,
    train_variants,
)
from safe_rlhf_panacea.errors import one_line_errors

if TYPE_CHECKING:
    import torch

PROGRAM = "python -m safe_rlhf_panacea.baselines.discrete_policies"


def folder_name(preference: torch.Tensor) -> str:
    """A folder's name for a vector, e.g. ``0.25_0.75``."""
    return "_".join(f"{value:.6g}" for value in preference.tolist())


def grid_variants(grid: torch.Tensor) -> Variants:
    """One variant per row of ``grid``, size = (N, m), in its order."""
    return {
        folder_name(row): ["--fixed_preference", ",".join(f"{v:.6g}" for v in row.tolist())]
        for row in grid
    }


def train_discrete_policies(
    algorithm: str, flags: Sequence[str], grid: torch.Tensor
) -> dict[str, Path]:
    """Train a model for every row of ``grid``, size = (N, m); name to folder, in its order."""
    return train_variants(algorithm, flags, grid_variants(grid))


def plan(argv: Sequence[str] | None) -> tuple[str, list[str], Variants]:
    """The algorithm, its flags and the variants that a command line asks for."""
    parser = build_parser(
        PROGRAM,
        "Train Discrete Policy Solutions: one model per λ of a grid, in output_dir/<λ>.",
        f"{PROGRAM} ppo --grid_step 0.1 --actor_model_name_or_path runs/sft \\\n"
        "  --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\\n"
        "  --train_datasets prompts:1:prompts.jsonl --lora_dim 9 --output_dir runs/discrete",
    )
    parser.add_argument(
        "--grid_step",
        type=positive_float,
        help="of λ, a model each; default: 0.1 (11 for m = 2), coarser from 5 objectives on",
    )
    args, flags = parser.parse_known_args(argv)
    from safe_rlhf_panacea.preference import default_grid, preference_grid

    count, step = len(objectives_of(parse_flags(args.algorithm, flags))), args.grid_step
    grid = default_grid(count) if step is None else preference_grid(count, step)
    return args.algorithm, flags, grid_variants(grid)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train one model per grid point, each into ``output_dir/<vector>``."""
    train_variants(*plan(argv))


if __name__ == "__main__":
    main()
