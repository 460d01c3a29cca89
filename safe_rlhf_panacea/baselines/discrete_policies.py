"""Discrete Policy Solutions: one model per preference vector, the upper bound of the paper.

``python -m safe_rlhf_panacea.baselines.discrete_policies dpo|ppo STEP <flags of that program>``
trains a model for every λ on the simplex grid of that step (0.1: 11 models for m = 2).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from safe_rlhf_panacea.baselines.fixed_preferences import (
    parse_flags,
    split_algorithm,
    train_fixed_preferences,
)
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.preference import preference_grid


def folder_name(preference: torch.Tensor) -> str:
    """A folder's name for a vector, e.g. ``0.25_0.75``."""
    return "_".join(f"{value:.6g}" for value in preference.tolist())


def train_discrete_policies(
    algorithm: str, flags: Sequence[str], grid: torch.Tensor
) -> dict[str, Path]:
    """Train a model for every row of ``grid``, size = (N, m); name to folder, in its order."""
    vectors = {
        folder_name(row): ",".join(f"{value:.6g}" for value in row.tolist()) for row in grid
    }
    return train_fixed_preferences(algorithm, flags, vectors)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train one model per grid point, each into ``output_dir/<vector>``."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    algorithm, rest = split_algorithm(argv)
    try:
        step = float(rest[0])
    except (IndexError, ValueError):
        raise UserError("the second argument must be the grid's step, e.g. 0.1") from None
    objectives = parse_flags(algorithm, rest[1:]).objectives
    train_discrete_policies(algorithm, rest[1:], preference_grid(len(objectives), step))


if __name__ == "__main__":
    main()
