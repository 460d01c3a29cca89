"""Fronts side by side: one reference point, one baseline, and what to know before believing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import StrictInt, model_validator

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts import stats
from safe_rlhf_panacea.fronts.result import FORMAT, FrontResult
from safe_rlhf_panacea.fronts.runs import RunFront, with_distinct_labels
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.records import Number, Record, Vector, validated

ROUGH_GUIDE = (
    "Standard errors of differences are √(se² + se²), as if the runs were independent. Runs that "
    "share prompts or random numbers have correlated errors, and many λ are looked at, so the "
    "marks (*, more than two standard errors) are a rough guide, not a test."
)
PAIRED = (
    "Intervals hold the middle 95 % of {draws} draws, with replacement, of the {units} prompts "
    "or pairs that all runs were evaluated on, the same draw for every run, {families}. They say "
    "nothing of other training seeds. Many λ are looked at: of twenty numbers that do not really "
    "differ about one is marked (*, an interval without 0). A hypervolume rewards the noise that a "
    "draw adds: its own interval lies a little high, that of a ratio less so."
)
# Flags of the evaluation that decide what its numbers mean.
SETTINGS = (
    *("datasets", "eval_datasets", "reward_models", "reward_scales", "reward_signs"),
    *("reward_shifts", "reward_calibration", "normalize_reward", "max_length", "temperature"),
    *("bf16", "seed"),
)


class ComparedFront(RunFront):
    """A front measured from the common reference point."""

    own_reference_point: Vector
    hypervolume_over_baseline: Number | None  # None where the baseline's is 0
    hypervolume_interval: stats.Interval | None = None  # None without unit values
    intervals: tuple[tuple[stats.Interval, ...], ...] | None = None  # of J, by λ and objective


class Bootstrap(Record):
    """How the intervals were made: the number of draws, and the share of them that one holds."""

    draws: StrictInt
    level: Number


class FrontComparison(Record):
    """Several fronts of the same objectives and what can be said of them together."""

    format: Literal[2] = FORMAT  # of ``compare.json``
    kind: str
    objectives: tuple[str, ...]  # m names, in the order of λ
    axis_labels: tuple[str, ...]  # of the first front
    reference_point: Vector  # of every hypervolume, m numbers
    reference_point_from: str  # where it comes from, in words
    baseline: str  # label of the front that the others are held against
    bootstrap: Bootstrap | None = None  # None unless the values of the same units are known of all
    runs: tuple[ComparedFront, ...]  # with labels that are all different
    differences: tuple[stats.FrontDifference, ...]  # every other front minus the baseline
    notes: tuple[str, ...] = ()  # what a reader must know, a sentence each

    @model_validator(mode="before")
    @classmethod
    def _complete_runs(cls, values: Any) -> Any:
        """In older files, what all runs share stands only beside them."""
        runs = values.get("runs") if isinstance(values, Mapping) else None
        if not isinstance(runs, list | tuple) or not all(isinstance(r, Mapping) for r in runs):
            return values
        shared = {k: values[k] for k in ("kind", "objectives", "axis_labels") if k in values}
        return {**values, "runs": [{**shared, **run} for run in runs]}

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values, as ``compare.json`` has them."""
        plain = self.model_dump(mode="json", by_alias=True, exclude={"runs"})
        return {**plain, "runs": [run.to_json() for run in self.runs]}

    @classmethod
    def load(cls, path: str | Path) -> FrontComparison:
        """Read ``compare.json``; a ``UserError`` says that it is not there, or what is damaged."""
        return validated(cls, str(path), read_json(path))


def compare(
    fronts: Sequence[FrontResult],
    reference_point: Sequence[float] | None = None,
    baseline: str | None = None,
) -> FrontComparison:
    """Measure two or more fronts of the same objectives from one point, and compare them with one.

    The default ``reference_point`` is the fronts' own where they agree, else the lowest entry of
    any, objective by objective; ``baseline`` is a label, by default the first front's. A
    ``UserError`` says which fronts do not go together, or what is wrong with point or label.
    """
    runs = [one if isinstance(one, RunFront) else RunFront(**one.fields()) for one in fronts]
    if len(runs) < 2:
        raise UserError(f"{len(runs)} front: there must be two or more to compare")
    check_comparable(runs, [run.name for run in runs])
    runs = with_distinct_labels(runs)
    chosen = runs[0].label if baseline is None else baseline
    labels = [run.label for run in runs]
    if chosen not in labels:
        raise UserError(f"--baseline {chosen}: no such run; there are {', '.join(labels)}")
    point, source = _common_reference_point(runs, reference_point)
    base = runs[labels.index(chosen)].measured_from(point)
    base_volume = base.indicators["hypervolume"]
    units = [run.units for run in runs if run.units is not None]
    drawn: dict[str, stats.Resampled | None] = dict.fromkeys(labels)
    if paired := stats.can_resample([run.units for run in runs]):
        drawn.update(zip(labels, stats.resample(units, point), strict=True))
    compared, differences = [], []
    for run in runs:
        front, own = run.measured_from(point), drawn[run.label]
        if run.label != chosen:
            differences.append(stats.front_difference(front, base, own, drawn[chosen]))
        volume = front.indicators["hypervolume"]
        about = {
            "own_reference_point": run.reference_point,
            "hypervolume_over_baseline": volume / base_volume if base_volume > 0 else None,
            "hypervolume_interval": own and stats.interval(own.hypervolumes).tolist(),
            "intervals": own and stats.interval(own.values).tolist(),
        }
        compared.append(ComparedFront(**front.fields(), **about))
    return FrontComparison(
        kind=runs[0].kind,
        objectives=runs[0].objectives,
        axis_labels=runs[0].axis_labels,
        reference_point=point,
        reference_point_from=source,
        baseline=chosen,
        bootstrap=Bootstrap(draws=stats.DRAWS, level=stats.LEVEL) if paired else None,
        runs=tuple(compared),
        differences=tuple(differences),
        notes=tuple(_notes(runs, point, paired)),
    )


def check_comparable(fronts: Sequence[FrontResult], names: Sequence[str]) -> None:
    """Refuse fronts of different objectives or kinds, with the names that the user knows."""
    first = fronts[0]
    for name, front in zip(names, fronts, strict=True):
        for what, own, other in (
            ("objectives", front.objectives, first.objectives),
            ("kind", [front.kind], [first.kind]),
        ):
            if own != other:
                raise UserError(
                    f"{name} has {what} {', '.join(own)}; {names[0]} has "
                    f"{', '.join(other)}: only runs that agree can be compared"
                )


def _common_reference_point(
    fronts: Sequence[FrontResult], given: Sequence[float] | None
) -> tuple[list[float], str]:
    """The point from which all hypervolumes are measured, and where it comes from."""
    own = np.array([front.reference_point for front in fronts])
    if given is not None:
        return [float(value) for value in given], "as given"
    if (own == own[0]).all():
        return own[0].tolist(), "that of every run"
    source = "the common reference point: of each objective the lowest of the runs' own"
    return own.min(axis=0).tolist(), source


def _notes(
    fronts: Sequence[RunFront], reference_point: Sequence[float], paired: bool
) -> Iterator[str]:
    """Sentences that hold for these runs, the general one last."""
    for front in fronts:
        outside = int((front.values <= reference_point).any(axis=-1).sum())
        if outside:
            yield (
                f"{front.label}: {outside} of {len(front.points)} points do not exceed the "
                "reference point and add nothing to the hypervolume."
            )
    first = fronts[0].preferences
    sizes = {len(stats.common_rows(front.preferences, first)[0]) for front in fronts}
    if sizes | {len(front.points) for front in fronts} != {len(first)}:
        counts = ", ".join(f"{front.label} {len(front.points)}" for front in fronts)
        yield f"The runs were evaluated at different λ ({counts}): every indicator depends on them."
    texts = list(dict.fromkeys(", ".join(front.axis_labels) for front in fronts))
    if len(texts) > 1:
        yield (
            f"Not all axes are called “{texts[0]}”; others are “{'”, “'.join(texts[1:])}”. "
            "Make sure that the units are the same."
        )
    programs = {str(front.program or "no record") for front in fronts}
    flags = [front.args for front in fronts]
    if len(programs) > 1 or not all(isinstance(entry, dict) for entry in flags):
        yield (
            f"Not all runs are on record as one program's ({', '.join(sorted(programs))}): make "
            "sure that prompts or pairs, rewards and seeds agree."
        )
    else:  # the flags of one program can be compared
        differ = [n for n in SETTINGS if any(own.get(n) != flags[0].get(n) for own in flags)]
        if differ:
            names = ", ".join(f"--{name}" for name in differ)
            yield f"The runs' flags differ in {names} (see run.json of each)."
    units = fronts[0].units
    if not paired or units is None:
        yield ROUGH_GUIDE
        return
    families = "and take these as independent"
    if units.clusters is not None:
        families = f"by the {len(set(units.clusters))} families that they come in"
    yield PAIRED.format(draws=stats.DRAWS, units=len(units.names), families=families)
