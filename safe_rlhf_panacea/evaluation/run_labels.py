"""Names that tell runs apart in tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.run_fronts import RunFront


def make_labels_distinct(runs: Sequence[RunFront]) -> None:
    """Add to labels that several runs have as much of the folder as tells them apart.

    Raises:
        UserError: it cannot be told apart, because a run was given twice.
    """
    labels = [run.front.label for run in runs]
    for label in {label for label in labels if labels.count(label) > 1}:
        alike = [run for run in runs if run.front.label == label]
        for run, tail in zip(alike, _distinct_tails(alike), strict=True):
            run.front.label = f"{label} ({tail})"
    labels = [run.front.label for run in runs]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"two runs are called {label}: name them with LABEL=RUN")


def _distinct_tails(runs: Sequence[RunFront]) -> list[str]:
    deepest = max(len(run.location.folder.absolute().parts) for run in runs)
    tails: list[str] = []
    for depth in range(1, deepest + 1):
        tails = [run.location.tail(depth) for run in runs]
        if len(set(tails)) == len(tails):
            return tails
    twice = next(tail for tail in tails if tails.count(tail) > 1)
    raise UserError(f"{twice} is given twice: give every run once")
