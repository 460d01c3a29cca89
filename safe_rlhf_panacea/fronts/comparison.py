"""Fronts of several runs, measured alike: one reference point, one baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.bootstrap import (
    DRAWS,
    LEVEL,
    Resampled,
    can_resample,
    interval,
    resample,
)
from safe_rlhf_panacea.fronts.comparison_notes import notes
from safe_rlhf_panacea.fronts.differences import (
    FrontDifference,
    front_difference,
    with_intervals,
)
from safe_rlhf_panacea.fronts.indicators import summarize
from safe_rlhf_panacea.fronts.run_labels import make_labels_distinct
from safe_rlhf_panacea.fronts.runs import RunFront

FORMAT = 2


@dataclass
class Comparison:
    """Several runs and what can be said of them together.

    Attributes:
        runs: with labels that are all different.
        reference_point: of every hypervolume, m numbers.
        reference_from: where it comes from, in words.
        summaries: points and indicators of each run, by label.
        baseline: label of the run that the others are held against.
        differences: every other run minus the baseline.
        notes: what a reader must know, a sentence each.
        resampled: the draws of each run, by label; empty where the values behind a front are not
            there, or those of other prompts or pairs.
    """

    runs: list[RunFront]
    reference_point: list[float]
    reference_from: str
    summaries: dict[str, dict[str, Any]]
    baseline: str
    differences: list[FrontDifference]
    notes: list[str]
    resampled: dict[str, Resampled]

    def hypervolume_ratio(self, label: str) -> float | None:
        """A run's hypervolume over the baseline's; None where that is 0."""
        own, base = (self.summaries[name]["hypervolume"] for name in (label, self.baseline))
        return own / base if base > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        first = self.runs[0]
        return {
            "format": FORMAT,
            "kind": first.kind,
            "objectives": first.front.objectives,
            "axis_labels": first.axis_labels,
            "reference_point": self.reference_point,
            "reference_point_from": self.reference_from,
            "baseline": self.baseline,
            "bootstrap": {"draws": DRAWS, "level": LEVEL} if self.resampled else None,
            "runs": [self._run(run) for run in self.runs],
            "differences": [difference.to_dict() for difference in self.differences],
            "notes": self.notes,
        }

    def hypervolume_interval(self, label: str) -> list[float]:
        """Of a run that was resampled."""
        return interval(self.resampled[label].hypervolumes).tolist()

    def _run(self, run: RunFront) -> dict[str, Any]:
        label = run.front.label
        found = {
            "label": label,
            **run.origin(),
            "own_reference_point": run.reference_point,
            "hypervolume_over_baseline": self.hypervolume_ratio(label),
            **self.summaries[label],
            "cost": run.result.get("cost"),
            "metadata": run.result.get("metadata"),
        }
        if label in self.resampled:
            found["hypervolume_interval"] = self.hypervolume_interval(label)
            ends = interval(self.resampled[label].values).tolist()
            found["intervals"] = ends  # of J, by λ and objective
        return found


def compare(
    runs: Sequence[RunFront],
    reference_point: Sequence[float] | None = None,
    baseline: str | None = None,
) -> Comparison:
    """Measure fronts from one point and hold them against one of them.

    Args:
        runs: two or more; their labels are made different in place.
        reference_point: of all hypervolumes; None: the runs' own where they agree, else the
            lowest entry of any, objective by objective.
        baseline: label of the run to compare with; None: the first.

    Raises:
        UserError: too few runs, runs that do not go together, a wrong point or label.
    """
    runs = list(runs)
    check_comparable(runs)
    make_labels_distinct(runs)
    labels = [run.front.label for run in runs]
    chosen = labels[0] if baseline is None else baseline
    if chosen not in labels:
        raise UserError(f"--baseline {chosen}: no such run; there are {', '.join(labels)}")
    point, source = common_reference_point(runs, reference_point)
    base = runs[labels.index(chosen)].front
    resampled = resampled_runs(runs, point)
    differences = [front_difference(run.front, base) for run in runs if run.front is not base]
    if resampled:
        differences = [
            with_intervals(entry, resampled[entry.label], resampled[chosen])
            for entry in differences
        ]
    return Comparison(
        runs=runs,
        reference_point=point,
        reference_from=source,
        summaries={run.front.label: summarize(run.front, point) for run in runs},
        baseline=chosen,
        differences=differences,
        notes=notes(runs, point, paired=bool(resampled)),
        resampled=resampled,
    )


def resampled_runs(runs: Sequence[RunFront], point: Sequence[float]) -> dict[str, Resampled]:
    """The same draws of every run, by label; empty where they do not have the same units."""
    found = [run.units for run in runs]
    if not can_resample(found):
        return {}
    draws = resample([units for units in found if units is not None], point)
    return {run.front.label: one for run, one in zip(runs, draws, strict=True)}


def check_comparable(runs: Sequence[RunFront]) -> None:
    """Whether fronts can stand in one picture.

    Raises:
        UserError: fewer than two, or of different objectives or kinds.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} front: there must be two or more to compare")
    first = runs[0]
    for run in runs[1:]:
        for what, own, other in (
            ("objectives", run.front.objectives, first.front.objectives),
            ("kind", [run.kind], [first.kind]),
        ):
            if own != other:
                raise UserError(
                    f"{run.location.text} has {what} {', '.join(own)}; {first.location.text} has "
                    f"{', '.join(other)}: only runs that agree can be compared"
                )


def common_reference_point(
    runs: Sequence[RunFront], given: Sequence[float] | None
) -> tuple[list[float], str]:
    """The point from which all hypervolumes are measured, and where it comes from.

    Raises:
        UserError: a given point of another number of entries, or not finite.
    """
    own = np.array([run.reference_point for run in runs])
    if given is not None:
        if len(given) != own.shape[1] or not np.isfinite(given).all():
            raise UserError(f"--reference_point needs {own.shape[1]} finite numbers, not {given}")
        return [float(value) for value in given], "as given"
    if (own == own[0]).all():
        return own[0].tolist(), "that of every run"
    source = "the common reference point: of each objective the lowest of the runs' own"
    return own.min(axis=0).tolist(), source
