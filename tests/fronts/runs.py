"""Folders as evaluations, training runs and the quickstart leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.fronts.evaluations import Evaluation, append_evaluation
from safe_rlhf_panacea.fronts.front import Front, FrontPoint
from safe_rlhf_panacea.fronts.results import Origin, front_result
from safe_rlhf_panacea.fronts.units import write_units
from safe_rlhf_panacea.io import atomic_write_json, read_json
from tests.eval.evaluations import write_evaluation


def write_training(folder: Path, steps: dict[int, float], **changes: Any) -> str:
    """A run that was evaluated at ``steps``, with the radius of each front; the last one counts."""
    for step, radius in steps.items():
        write_evaluation(folder, radius, **{"label": "Panacea", **changes, "step": step})
        append_evaluation(folder, Evaluation(read_json(folder / "front.json")))
    (folder / "front.json").rename(folder / "results.json")
    return str(folder)


def write_quickstart(folder: Path, **radii: float) -> str:
    """What ``make quickstart`` leaves: a result per experiment and method."""
    names = ["helpful", "harmless"]

    def result(method: str, kind: str, radius: float) -> dict[str, Any]:
        points = [
            FrontPoint([x, 1 - x], [radius * x, radius * (1 - x)], [0.1, 0.1], 0.2, 0.01)
            for x in (0.0, 0.5, 1.0)
        ]
        origin = Origin(method, "", {}, None, 1.0, 10)
        return front_result(Front(names, points), kind, [-1.0, -2.0], origin)

    kinds = {"dpo": "accuracy", "ppo": "reward", "ppo_true_scores": "true score"}
    experiments = {
        name: {method: result(method, kind, radius) for method, radius in radii.items()}
        for name, kind in kinds.items()
    }
    atomic_write_json(folder / "results.json", {"experiments": experiments, "seed": 1})
    return str(folder)


def write_with_values(
    folder: Path, values: np.ndarray, grid: torch.Tensor, names: Sequence[str], **changes: Any
) -> str:
    """An evaluation with what every prompt or pair gave, size = (N, U, m)."""
    means = np.nanmean(values, axis=1)
    keys = {"standard_errors": [0.1, 0.1], "kl": 0.2, "kl_error": 0.01}
    rows = zip(grid.tolist(), means.tolist(), strict=True)
    front = [{"preference": at, "objectives": mean, **keys} for at, mean in rows]
    write_evaluation(folder, 1.0, front=front, **changes)
    write_units(folder, names, grid, torch.tensor(values))
    return str(folder)
