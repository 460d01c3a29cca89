"""What a dashboard shows of a run's evaluations, whatever shows it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.indicators import INDICATORS
from safe_rlhf_panacea.show import pictures
from safe_rlhf_panacea.show.tables import (
    Table,
    indicators_table,
    points_table,
)


def vector_name(preference: Sequence[float]) -> str:
    """λ in the name of a series, ``0.25_0.75``."""
    return "_".join(f"{value:.2f}" for value in preference)


def scalars(evaluation: Evaluation) -> dict[str, float]:
    """Time series: indicators, every J and KL by λ, sizes of σ and s."""
    result, found = evaluation.result, {}
    for key in INDICATORS:
        found[f"front/{key}"] = float(result[key])
    for name, value in zip(evaluation.objectives, result["spearman"], strict=True):
        found[f"front/spearman_{name}"] = value
    for point in result["front"]:
        where = vector_name(point["preference"])
        for name, value in zip(evaluation.objectives, point["objectives"], strict=True):
            found[f"front_{name}/{where}"] = value
        if point["kl"] is not None:
            found[f"front_kl/{where}"] = point["kl"]
    for part in ("sigma", "s"):
        sizes = np.abs([v for entry in evaluation.singular_values for v in entry[part]])
        if sizes.size:
            found[f"singular/median_abs_{part}"] = float(np.median(sizes))
            found[f"singular/max_abs_{part}"] = float(sizes.max())
    found["front/seconds"] = evaluation.seconds
    return found


def responses_table(evaluation: Evaluation) -> Table:
    """A few prompts, each answered at every λ."""
    names = evaluation.objectives
    rewarded = bool(evaluation.responses and evaluation.responses[0]["rewards"])
    columns = ["step", "prompt", *(f"λ {n}" for n in names), "response"]
    columns += [*(names if rewarded else []), "log π/π_ref"]
    rows = []
    for entry in evaluation.responses:
        row = [evaluation.step, entry["prompt"], *entry["preference"], entry["response"]]
        rows.append([*row, *entry["rewards"], entry["log_ratio"]])
    return Table(f"Responses at step {evaluation.step}", columns, rows)


def singular_values_table(evaluation: Evaluation) -> Table:
    """Sizes of σ and s, matrix by matrix."""
    columns = ["step", "matrix", "least |σ|", "median |σ|", "largest |σ|", "|s|"]
    rows = []
    for entry in evaluation.singular_values:
        sizes, s = np.abs(entry["sigma"]), np.abs(entry["s"])
        spread = float(sizes.min()), float(np.median(sizes)), float(sizes.max())
        largest = float(s.max()) if s.size else None
        rows.append([evaluation.step, entry["matrix"], *spread, largest])
    return Table("Matrix by matrix", columns, rows)


def histograms(evaluation: Evaluation) -> dict[str, list[float]]:
    """Rewards (or margins) by objective and λ, and all σ and s."""
    found = {}
    for point, values in zip(evaluation.result["front"], evaluation.distributions, strict=True):
        for name, column in zip(evaluation.objectives, values, strict=True):
            found[f"values_{name}/{vector_name(point['preference'])}"] = column
    for part in ("sigma", "s"):
        found[f"singular/{part}"] = [v for e in evaluation.singular_values for v in e[part]]
    return {name: values for name, values in found.items() if values}


@dataclass(frozen=True)
class Content:
    """All that there is to show; pictures are drawn once, whoever asks for them.

    Attributes:
        evaluations: every evaluation so far, the latest whole.
        metrics: the lines of ``metrics.jsonl``, for the curves; may be empty.
    """

    evaluations: list[Evaluation]
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def latest(self) -> Evaluation:
        """The evaluation of now."""
        return self.evaluations[-1]

    @functools.cached_property
    def pictures(self) -> dict[str, bytes]:
        """PNGs by name."""
        latest = self.latest
        drawn = {
            "front/so_far": pictures.fronts_so_far(self.evaluations),
            "front/now": pictures.front_now(latest),
            "front/indicators": pictures.indicators(self.evaluations),
            "front/distributions": pictures.distributions(latest),
            "singular/by_matrix": pictures.singular_values(latest),
        }
        if all(point.kl is not None for point in latest.front.points):
            drawn["front/kl"] = pictures.kl(latest)
        if any(map(any, latest.drawn.values())):
            drawn["preferences/drawn"] = pictures.preferences_drawn(latest)
        return drawn

    @functools.cached_property
    def tables(self) -> dict[str, Table]:
        """Tables by name."""
        results = [one.result for one in self.evaluations]
        seconds = [round(one.seconds, 1) for one in self.evaluations]
        return {
            "front/points": points_table(results, "step"),
            "front/indicators": indicators_table(results, "step", seconds=seconds),
            "responses": responses_table(self.latest),
            "singular/by_matrix": singular_values_table(self.latest),
        }
