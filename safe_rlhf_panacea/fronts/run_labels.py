"""Names that tell runs apart in tables and pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.runs import RunFront


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
    """The shortest ends of the paths that differ, less what is the same at the end of all."""
    steps = [run.location.at for run in runs]
    paths = [Path(os.path.abspath(run.location.folder)).parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        ends = [parts[-depth:] for parts in paths]
        if len(set(zip(ends, steps, strict=True))) == len(runs):
            while min(map(len, ends)) > 1 and len({end[-1] for end in ends}) == 1:
                ends = [end[:-1] for end in ends]
            return ["/".join(end) + step for end, step in zip(ends, steps, strict=True)]
    ends = list(zip(paths, steps, strict=True))
    twice = next(run for run, end in zip(runs, ends, strict=True) if ends.count(end) > 1)
    raise UserError(f"{twice.location.place} is given twice: give every run once")
