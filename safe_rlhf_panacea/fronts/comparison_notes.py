"""What a reader must know before he believes a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from safe_rlhf_panacea.fronts.bootstrap import DRAWS
from safe_rlhf_panacea.fronts.runs import RunFront
from safe_rlhf_panacea.fronts.schema import same_preference

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
    "datasets",
    "eval_datasets",
    "reward_models",
    "reward_scales",
    "reward_signs",
    "reward_shifts",
    "reward_calibration",
    "normalize_reward",
    "max_length",
    "temperature",
    "bf16",
    "seed",
)


def notes(
    runs: Sequence[RunFront], reference_point: Sequence[float], paired: bool = False
) -> list[str]:
    """Sentences that hold for these runs, the general one last.

    Args:
        runs: that are compared.
        reference_point: of the hypervolumes.
        paired: whether there are paired intervals.
    """
    units = runs[0].units
    general = ROUGH_GUIDE
    if paired and units is not None:
        families = "and take these as independent"
        if units.clusters is not None:
            families = f"by the {len(set(units.clusters))} families that they come in"
        general = PAIRED.format(draws=DRAWS, units=len(units.names), families=families)
    return [
        *_below_reference(runs, reference_point),
        *_other_grids(runs),
        *_other_units(runs),
        *_other_settings(runs),
        general,
    ]


def _below_reference(runs: Sequence[RunFront], reference_point: Sequence[float]) -> Iterator[str]:
    for run in runs:
        outside = int((run.front.values <= reference_point).any(axis=-1).sum())
        if outside:
            yield (
                f"{run.front.label}: {outside} of {len(run.front.points)} points do not exceed "
                "the reference point and add nothing to the hypervolume."
            )


def _other_grids(runs: Sequence[RunFront]) -> Iterator[str]:
    first, *others = [run.front.preferences for run in runs]
    if any(
        len(grid) != len(first)
        or not all(any(same_preference(row, other) for other in first) for row in grid)
        for grid in others
    ):
        counts = ", ".join(f"{run.front.label} {len(run.front.points)}" for run in runs)
        yield f"The runs were evaluated at different λ ({counts}): every indicator depends on them."


def _other_units(runs: Sequence[RunFront]) -> Iterator[str]:
    texts = list(dict.fromkeys(", ".join(run.axis_labels) for run in runs))
    if len(texts) > 1:
        yield (
            f"Not all axes are called “{texts[0]}”; others are “{'”, “'.join(texts[1:])}”. "
            "Make sure that the units are the same."
        )


def _other_settings(runs: Sequence[RunFront]) -> Iterator[str]:
    """Only the flags of one program can be compared."""
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
