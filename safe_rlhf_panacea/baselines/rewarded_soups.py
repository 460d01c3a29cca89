"""Rewarded Soups: one model per objective, weights interpolated by λ (Rame et al., 2023).

``python -m safe_rlhf_panacea.baselines.rewarded_soups dpo|ppo <flags of that program>`` trains
the m models; ``safe_rlhf_panacea.adapter.load_soup`` makes the soup.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from safe_rlhf_panacea.baselines.fixed_preferences import (
    parse_flags,
    split_algorithm,
    train_fixed_preferences,
)
from safe_rlhf_panacea.errors import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train one model per objective, each into ``output_dir/<objective>``."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    algorithm, flags = split_algorithm(argv)
    train_soup(algorithm, flags)


def train_soup(algorithm: str, flags: Sequence[str]) -> dict[str, Path]:
    """Train the ingredients; objective to folder, in the order of λ."""
    objectives = parse_flags(algorithm, flags).objectives
    vectors = {
        name: ",".join(f"{other}={int(other == name)}" for other in objectives)
        for name in objectives
    }
    return train_fixed_preferences(algorithm, flags, vectors)


if __name__ == "__main__":
    main()
