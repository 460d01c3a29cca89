"""What a dashboard shows of a run's evaluations, whatever shows it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safe_rlhf_panacea.dashboard import pictures
from safe_rlhf_panacea.dashboard.snapshot import Snapshot
from safe_rlhf_panacea.evaluation.tables import INDICATORS


@dataclass(frozen=True)
class Table:
    """A table: heads of its columns, and rows."""

    columns: list[str]
    rows: list[list[Any]]


def vector_name(preference: Sequence[float]) -> str:
    """λ in the name of a series, ``0.25_0.75``."""
    return "_".join(f"{value:.2f}" for value in preference)


def scalars(snapshot: Snapshot) -> dict[str, float]:
    """Time series: indicators, every J and KL by λ, sizes of σ and s."""
    result, found = snapshot.result, {}
    for key in INDICATORS:
        found[f"front/{key}"] = float(result[key])
    for name, value in zip(snapshot.objectives, result["spearman"], strict=True):
        found[f"front/spearman_{name}"] = value
    for index, point in enumerate(result["front"]):
        where = vector_name(point["preference"])
        for name, value in zip(snapshot.objectives, point["objectives"], strict=True):
            found[f"front_{name}/{where}"] = value
        found[f"front_kl/{where}"] = snapshot.kl[index]
    for part in ("sigma", "s"):
        sizes = np.abs([v for entry in snapshot.singular_values for v in entry[part]])
        if sizes.size:
            found[f"singular/median_abs_{part}"] = float(np.median(sizes))
            found[f"singular/max_abs_{part}"] = float(sizes.max())
    found["front/seconds"] = snapshot.seconds
    return found


def points_table(snapshots: Sequence[Snapshot]) -> Table:
    """Every point of every front so far."""
    names = snapshots[0].objectives
    columns = ["step", *(f"λ {n}" for n in names), *names, *(f"± {n}" for n in names), "KL", "± KL"]
    rows = [
        [
            snapshot.step,
            *point["preference"],
            *point["objectives"],
            *point["standard_errors"],
            kl,
            error,
        ]
        for snapshot in snapshots
        for point, kl, error in zip(
            snapshot.result["front"], snapshot.kl, snapshot.kl_errors, strict=True
        )
    ]
    return Table(columns, rows)


def indicators_table(snapshots: Sequence[Snapshot]) -> Table:
    """One row per evaluation."""
    names = snapshots[0].objectives
    columns = ["step", *INDICATORS.values(), *(f"Spearman {name}" for name in names), "seconds"]
    rows = [
        [s.step, *(s.result[k] for k in INDICATORS), *s.result["spearman"], round(s.seconds, 1)]
        for s in snapshots
    ]
    return Table(columns, rows)


def responses_table(snapshot: Snapshot) -> Table:
    """A few prompts, each answered at every λ."""
    names = snapshot.objectives
    rewarded = bool(snapshot.responses and snapshot.responses[0]["rewards"])
    columns = ["step", "prompt", *(f"λ {n}" for n in names), "response"]
    columns += [*(names if rewarded else []), "log π/π_ref"]
    rows = []
    for entry in snapshot.responses:
        row = [snapshot.step, entry["prompt"], *entry["preference"], entry["response"]]
        rows.append([*row, *entry["rewards"], entry["log_ratio"]])
    return Table(columns, rows)


def singular_values_table(snapshot: Snapshot) -> Table:
    """Sizes of σ and s, matrix by matrix."""
    columns = ["step", "matrix", "least |σ|", "median |σ|", "largest |σ|", "|s|"]
    rows = []
    for entry in snapshot.singular_values:
        sizes, s = np.abs(entry["sigma"]), np.abs(entry["s"])
        spread = float(sizes.min()), float(np.median(sizes)), float(sizes.max())
        largest = float(s.max()) if s.size else None
        rows.append([snapshot.step, entry["matrix"], *spread, largest])
    return Table(columns, rows)


def histograms(snapshot: Snapshot) -> dict[str, list[float]]:
    """Rewards (or margins) by objective and λ, and all σ and s."""
    found = {}
    for point, values in zip(snapshot.result["front"], snapshot.distributions, strict=True):
        for name, column in zip(snapshot.objectives, values, strict=True):
            found[f"values_{name}/{vector_name(point['preference'])}"] = column
    for part in ("sigma", "s"):
        found[f"singular/{part}"] = [v for e in snapshot.singular_values for v in e[part]]
    return {name: values for name, values in found.items() if values}


@dataclass(frozen=True)
class Content:
    """All that there is to show; pictures are drawn once, whoever asks for them.

    Attributes:
        snapshots: every evaluation so far, the latest whole.
        metrics: the lines of ``metrics.jsonl``, for the curves; may be empty.
    """

    snapshots: list[Snapshot]
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def latest(self) -> Snapshot:
        """The evaluation of now."""
        return self.snapshots[-1]

    @functools.cached_property
    def pictures(self) -> dict[str, bytes]:
        """PNGs by name."""
        latest = self.latest
        drawn = {
            "front/so_far": pictures.fronts_so_far(self.snapshots),
            "front/now": pictures.front_now(latest),
            "front/indicators": pictures.indicators(self.snapshots),
            "front/kl": pictures.kl(latest),
            "front/distributions": pictures.distributions(latest),
            "singular/by_matrix": pictures.singular_values(latest),
        }
        if any(map(any, latest.drawn.values())):
            drawn["preferences/drawn"] = pictures.preferences_drawn(latest)
        return drawn

    @functools.cached_property
    def tables(self) -> dict[str, Table]:
        """Tables by name."""
        return {
            "front/points": points_table(self.snapshots),
            "front/indicators": indicators_table(self.snapshots),
            "responses": responses_table(self.latest),
            "singular/by_matrix": singular_values_table(self.latest),
        }
