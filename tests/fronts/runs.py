"""Folders as evaluations, training runs and the quickstart leave them."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.fronts.measurement import grid_points
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.fronts.stats import Units
from safe_rlhf_panacea.io import append_line, atomic_write_json
from tests.eval.evaluations import NAMES, front, write_evaluation
from tests.show.evaluations import evaluation


def write_training(folder: Path, steps: dict[int, float], **changes: Any) -> str:
    """A run that was evaluated at ``steps``, with the radius of each front; the last one counts."""
    for step, radius in steps.items():
        write_evaluation(folder, radius, **{"label": "Panacea", **changes, "step": step})
        result = FrontResult.load(folder)
        shown = evaluation(step, radius).having(
            result=result, distributions=(), base_distributions=(), responses=()
        )
        append_line(folder / "evaluations.jsonl", dumps(shown.to_json()))
    (folder / "front.json").rename(folder / "results.json")
    return str(folder)


def write_quickstart(folder: Path, **radii: float) -> str:
    """What ``make quickstart`` leaves: a result per experiment and method."""
    kinds = {"dpo": "accuracy", "ppo": "reward", "ppo_true_scores": "true score"}
    labels = {"panacea": "Panacea", "rewarded_soups": "Rewarded Soups"}
    experiments = {
        name: {
            method: front(
                radius,
                label=labels[method],
                kind=kind,
                method=method,
                axis_labels=[f"{objective} (mean {kind})" for objective in NAMES[:2]],
                reference_point=[-1.0, -2.0],
            ).to_json()
            for method, radius in radii.items()
        }
        for name, kind in kinds.items()
    }
    atomic_write_json(folder / "results.json", {"experiments": experiments, "seed": 1})
    return str(folder)


def with_values(
    values: np.ndarray,
    grid: torch.Tensor,
    names: Sequence[str],
    label: str = "",
    clusters: Sequence[str] | None = None,
) -> FrontResult:
    """A front with what every prompt or pair gave, size = (N, U, m)."""
    means = torch.from_numpy(np.nanmean(values, axis=1))
    points = grid_points(grid, means, torch.full_like(means, 0.1))
    return front(1.0, 2, label, points=points, units=Units(names, values, clusters))
