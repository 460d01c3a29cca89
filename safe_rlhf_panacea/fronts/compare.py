"""Fronts side by side: one reference point, one baseline, and what to know before believing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import StrictInt, model_validator

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FORMAT, SAME_PREFERENCE, FrontResult
from safe_rlhf_panacea.fronts.runs import Run, with_distinct_labels
from safe_rlhf_panacea.fronts.stats import DRAWS, LEVEL, Resampled, can_resample, interval, resample
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


BEYOND = 2.0  # so many standard errors are worth a mark

Interval = tuple[Number, Number]


# -- differences -----------------------------------------------------------------------------


class DifferenceRow(Record):
    """A front minus the baseline at one λ.

    Attributes:
        preference: λ, m numbers.
        difference: J - J_baseline.
        standard_error: of the differences for independent runs, √(se² + se²).
        marked: which differences lie beyond two standard errors or, where there are intervals,
            have one without 0.
        scalarised: ⟨λ, ΔJ⟩, the difference in what λ asks for.
        interval: the paired 95 % interval of each difference, where the unit values are known.
    """

    preference: Vector
    difference: Vector
    standard_error: Vector
    marked: tuple[bool, ...]
    scalarised: Number
    interval: tuple[Interval, ...] | None = None


class FrontDifference(Record):
    """By how much a front exceeds the baseline, λ by λ and in all.

    Attributes:
        label: of the front.
        baseline: label of the other one.
        rows: one per λ that both have, in the baseline's order.
        mean_scalarised: mean of ⟨λ, ΔJ⟩ over the rows; None where there is none.
        left_out: by label, how many λ the other front lacks.
        hypervolume_ratio_interval: of the hypervolume over the baseline's; None without unit
            values, and where the baseline's is 0 in some draw.
        mean_scalarised_interval: of ``mean_scalarised``.
    """

    label: str
    baseline: str
    rows: tuple[DifferenceRow, ...]
    mean_scalarised: Number | None = None
    left_out: dict[str, int]
    hypervolume_ratio_interval: Interval | None = None
    mean_scalarised_interval: Interval | None = None


def common_rows(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two grids, size = (N, m) each, that hold the same λ; in the order of ``second``."""
    gaps = np.abs(second[:, None] - first[None]).max(axis=-1)
    of_second, of_first = np.nonzero(gaps <= SAME_PREFERENCE)
    return of_first, of_second


def front_difference(
    front: FrontResult, baseline: FrontResult, drawn: Sequence[Resampled] = ()
) -> FrontDifference:
    """``front`` minus ``baseline`` at every λ that both have, but for rounding.

    Args:
        front: of the same objectives as ``baseline``.
        baseline: the other one.
        drawn: the same draws of both, in this order; empty: there are no intervals.
    """
    mine, other = common_rows(front.preferences, baseline.preferences)
    preferences = baseline.preferences[other]  # size = (n, m)
    values = front.values[mine] - baseline.values[other]
    errors = np.hypot(front.errors[mine], baseline.errors[other])
    scalarised = (preferences * values).sum(axis=-1)  # size = (n,)
    marked, ends = np.abs(values) > BEYOND * errors, None
    found: dict[str, Interval] = {}
    if drawn:
        own, base = drawn
        gaps = own.values[:, mine] - base.values[:, other]  # size = (D, n, m)
        ends = interval(gaps)  # size = (n, m, 2)
        marked = (ends[..., 0] > 0) | (ends[..., 1] < 0)
        if len(mine):
            gains = (gaps * preferences).sum(axis=-1).mean(axis=-1)
            found["mean_scalarised_interval"] = tuple(interval(gains).tolist())
        if (base.hypervolumes > 0).all():
            ratios = interval(own.hypervolumes / base.hypervolumes)
            found["hypervolume_ratio_interval"] = tuple(ratios.tolist())
    columns = {
        "preference": preferences,
        "difference": values,
        "standard_error": errors,
        "marked": marked,
        "scalarised": scalarised,
        **({} if ends is None else {"interval": ends}),
    }
    table = zip(*(column.tolist() for column in columns.values()), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in table]
    return FrontDifference(
        label=front.label,
        baseline=baseline.label,
        rows=rows,
        mean_scalarised=float(scalarised.mean()) if len(mine) else None,
        left_out={
            front.label: len(front.points) - len(mine),
            baseline.label: len(baseline.points) - len(other),
        },
        **found,
    )


class ComparedFront(FrontResult):
    """A front measured from the common reference point, and where it comes from.

    Attributes:
        run: as the user wrote it, without its label.
        folder: where it lies.
        file: name of the file that it was read from.
        program: that measured it.
        started_at: when, as ISO 8601.
        versions: of the packages that it used.
        commit: of the code.
        modified: whether the files differed from the commit.
        own_reference_point: that of the run itself, m numbers.
        hypervolume_over_baseline: None where the baseline's is 0.
        hypervolume_interval: 95 %, from the draws; None without unit values.
        intervals: of J, by λ and objective; None without unit values.
    """

    run: str | None = None
    folder: str | None = None
    file: str | None = None
    program: Any = None
    started_at: Any = None
    versions: Any = None
    commit: Any = None
    modified: Any = None
    own_reference_point: Vector
    hypervolume_over_baseline: Number | None
    hypervolume_interval: Interval | None = None
    intervals: tuple[tuple[Interval, ...], ...] | None = None


class Bootstrap(Record):
    """How the intervals were made: the number of draws, and the share of them that one holds."""

    draws: StrictInt
    level: Number


class FrontComparison(Record):
    """Several fronts and what can be said of them together.

    Attributes:
        format: of the JSON form, ``compare.json``.
        kind: of all fronts.
        objectives: their names, in the order of λ.
        axis_labels: of the first front.
        reference_point: of every hypervolume, m numbers.
        reference_point_from: where it comes from, in words.
        baseline: label of the front that the others are held against.
        bootstrap: None where the unit values of a front are not known, or those of other units.
        runs: the fronts, with labels that are all different.
        differences: every other front minus the baseline.
        notes: what a reader must know, a sentence each.
    """

    format: Literal[2] = FORMAT
    kind: str
    objectives: tuple[str, ...]
    axis_labels: tuple[str, ...]
    reference_point: Vector
    reference_point_from: str
    baseline: str
    bootstrap: Bootstrap | None = None
    runs: tuple[ComparedFront, ...]
    differences: tuple[FrontDifference, ...]
    notes: tuple[str, ...] = ()

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
        """Read what ``evaluation.compare`` wrote to ``compare.json``.

        Raises:
            UserError: it is not there, or damaged.
        """
        return validated(cls, str(path), read_json(path))


def compare(
    fronts: Sequence[Run | FrontResult],
    reference_point: Sequence[float] | None = None,
    baseline: str | None = None,
) -> FrontComparison:
    """Measure fronts from one point and hold them against one of them.

    Args:
        fronts: two or more, of the same objectives and kind.
        reference_point: of all hypervolumes; None: the fronts' own where they agree, else the
            lowest entry of any, objective by objective.
        baseline: label of the front to compare with; None: the first.

    Raises:
        UserError: too few fronts, fronts that do not go together, a wrong point or label.
    """
    runs = [front if isinstance(front, Run) else Run(front) for front in fronts]
    check_comparable(runs)
    runs = with_distinct_labels(runs)
    by_label = {run.result.label: run for run in runs}
    chosen = next(iter(by_label)) if baseline is None else baseline
    if chosen not in by_label:
        raise UserError(f"--baseline {chosen}: no such run; there are {', '.join(by_label)}")
    point, source = common_reference_point([run.result for run in runs], reference_point)
    measured = {label: run.result.measured_from(point) for label, run in by_label.items()}
    units = [run.result.units for run in runs]
    drawn: dict[str, Resampled] = {}
    if can_resample(units):
        draws = resample([one for one in units if one is not None], point)
        drawn = dict(zip(by_label, draws, strict=True))
    base = measured[chosen]
    first = runs[0].result
    return FrontComparison(
        kind=first.kind,
        objectives=first.objectives,
        axis_labels=first.axis_labels,
        reference_point=point,
        reference_point_from=source,
        baseline=chosen,
        bootstrap=Bootstrap(draws=DRAWS, level=LEVEL) if drawn else None,
        runs=tuple(
            _compared(run, measured[label], base, drawn.get(label))
            for label, run in by_label.items()
        ),
        differences=tuple(
            front_difference(front, base, [drawn[label], drawn[chosen]] if drawn else ())
            for label, front in measured.items()
            if label != chosen
        ),
        notes=tuple(_notes(runs, point, paired=bool(drawn))),
    )


def _compared(
    run: Run, front: FrontResult, baseline: FrontResult, drawn: Resampled | None
) -> ComparedFront:
    """A run of a comparison; its front and the baseline are measured from the common point."""
    own, base = (one.indicators["hypervolume"] for one in (front, baseline))
    return ComparedFront(
        **front.fields(),
        **run.origin(),
        own_reference_point=run.result.reference_point,
        hypervolume_over_baseline=own / base if base > 0 else None,
        hypervolume_interval=drawn and interval(drawn.hypervolumes).tolist(),
        intervals=drawn and interval(drawn.values).tolist(),
    )


def check_comparable(runs: Sequence[Run]) -> None:
    """Whether fronts can stand in one picture.

    Raises:
        UserError: fewer than two, or of different objectives or kinds.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} front: there must be two or more to compare")
    first = runs[0]
    for run in runs[1:]:
        for what, own, other in (
            ("objectives", run.result.objectives, first.result.objectives),
            ("kind", [run.result.kind], [first.result.kind]),
        ):
            if own != other:
                raise UserError(
                    f"{run.name} has {what} {', '.join(own)}; {first.name} has "
                    f"{', '.join(other)}: only runs that agree can be compared"
                )


def common_reference_point(
    fronts: Sequence[FrontResult], given: Sequence[float] | None
) -> tuple[list[float], str]:
    """The point from which all hypervolumes are measured, and where it comes from.

    Raises:
        UserError: a given point of another number of entries, or not finite.
    """
    own = np.array([front.reference_point for front in fronts])
    if given is not None:
        if len(given) != own.shape[1] or not np.isfinite(given).all():
            raise UserError(f"--reference_point needs {own.shape[1]} finite numbers, not {given}")
        return [float(value) for value in given], "as given"
    if (own == own[0]).all():
        return own[0].tolist(), "that of every run"
    source = "the common reference point: of each objective the lowest of the runs' own"
    return own.min(axis=0).tolist(), source


def _notes(runs: Sequence[Run], reference_point: Sequence[float], paired: bool) -> Iterator[str]:
    """Sentences that hold for these runs, the general one last."""
    fronts = [run.result for run in runs]
    for front in fronts:
        outside = int((front.values <= reference_point).any(axis=-1).sum())
        if outside:
            yield (
                f"{front.label}: {outside} of {len(front.points)} points do not exceed the "
                "reference point and add nothing to the hypervolume."
            )
    first = fronts[0].preferences
    sizes = {len(common_rows(front.preferences, first)[0]) for front in fronts}
    if sizes | {len(front.points) for front in fronts} != {len(first)}:
        counts = ", ".join(f"{front.label} {len(front.points)}" for front in fronts)
        yield f"The runs were evaluated at different λ ({counts}): every indicator depends on them."
    texts = list(dict.fromkeys(", ".join(front.axis_labels) for front in fronts))
    if len(texts) > 1:
        yield (
            f"Not all axes are called “{texts[0]}”; others are “{'”, “'.join(texts[1:])}”. "
            "Make sure that the units are the same."
        )
    yield from _other_settings(runs)
    units = fronts[0].units
    if not paired or units is None:
        yield ROUGH_GUIDE
        return
    families = "and take these as independent"
    if units.clusters is not None:
        families = f"by the {len(set(units.clusters))} families that they come in"
    yield PAIRED.format(draws=DRAWS, units=len(units.names), families=families)


def _other_settings(runs: Sequence[Run]) -> Iterator[str]:
    """How the flags differ; only those of one program can be compared."""
    programs = {str(run.record.get("program", "no record")) for run in runs}
    flags: list[Any] = [run.record.get("args") for run in runs]
    if len(programs) > 1 or not all(isinstance(entry, dict) for entry in flags):
        yield (
            f"Not all runs are on record as one program's ({', '.join(sorted(programs))}): make "
            "sure that prompts or pairs, rewards and seeds agree."
        )
        return
    differ = [name for name in SETTINGS if any(f.get(name) != flags[0].get(name) for f in flags)]
    if differ:
        names = ", ".join(f"--{name}" for name in differ)
        yield f"The runs' flags differ in {names} (see run.json of each)."
