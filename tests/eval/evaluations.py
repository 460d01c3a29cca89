"""Fronts, and folders that hold them, with numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.measurement import grid_points
from safe_rlhf_panacea.fronts.result import Cost, FrontPoint, FrontResult, Reached
from safe_rlhf_panacea.fronts.stats import Units
from safe_rlhf_panacea.io import append_line, atomic_write_json
from safe_rlhf_panacea.preference import preference_grid

NAMES = ("helpful", "harmless", "concise")
TWO = NAMES[:2]
GRID = ([0.0, 1.0], [0.5, 0.5], [1.0, 0.0])


def points(
    preferences: Any, values: Any, errors: Any = (0.1, 0.1), **more: Any
) -> list[FrontPoint]:
    """A point per λ and J, all with the same errors."""
    return [
        FrontPoint(preference=at, objectives=J, standard_errors=errors, **more)
        for at, J in zip(preferences, values, strict=True)
    ]


def front(radius: float, m: int = 2, label: str = "", **fields: Any) -> FrontResult:
    """J_i = radius · λ_i at a coarse grid; the reference point is the origin."""
    names, kind = NAMES[:m], fields.get("kind", "reward")
    grid = preference_grid(m, 0.5).double()
    given = {
        "kind": kind,
        "method": "panacea",
        "label": label,
        "aggregation": "ls",
        "cost": Cost(training_seconds=1.5, stored_parameters=10),
        "objectives": names,
        "axis_labels": [f"{name} ({kind})" for name in names],
        "points": points(grid.tolist(), (radius * grid).tolist(), [0.1] * m, kl=0.2, kl_error=0.01),
        "reference_point": [0.0] * m,
    }
    return FrontResult(**{**given, **fields})


def with_values(
    values: np.ndarray,
    grid: torch.Tensor,
    names: Sequence[str],
    label: str = "",
    clusters: Sequence[str] | None = None,
) -> FrontResult:
    """A front with what every prompt or pair gave, size = (N, U, m)."""
    means = torch.from_numpy(np.nanmean(values, axis=1))
    made = grid_points(grid, means, torch.full_like(means, 0.1))
    return front(1.0, 2, label, points=made, units=Units(names, values, clusters))


def evaluation(step: int, radius: float) -> Evaluation:
    """``front`` in training; three responses to each of two prompts."""
    base = Reached(objectives=[0.1, 0.1], standard_errors=[0.1, 0.1])
    result = front(radius, label="run", step=step, base=base)
    kls = zip(result.points, (0.3, 0.2, 0.1), strict=True)
    responses = [
        {
            "prompt": f"BEGINNING OF CONVERSATION: USER: <b>{prompt}</b> ASSISTANT:",
            "response": f"{prompt} at {row[0]} | <script>",
            "preference": row,
            "rewards": [radius * row[0], radius * row[1]],
            "log_ratio": 0.5,
        }
        for prompt in ("one", "two")
        for row in GRID
    ]
    return Evaluation(
        result=result.having(points=[point.having(kl=kl) for point, kl in kls]),
        distributions=[[[radius * v - 1, radius * v + 1] for v in row] for row in GRID],
        base_distributions=[[0.0, 0.2], [0.0, 0.2]],
        responses=responses,
        singular_values=[
            {"matrix": "model.layers.0.q_proj", "sigma": [0.1, -0.3], "s": [0.02]},
            {"matrix": "model.layers.1.q_proj", "sigma": [0.0, 0.2], "s": [-0.5]},
        ],
        drawn={"helpful": [1, 2] + [0] * 8, "harmless": [0] * 8 + [2, 1]},
        seconds=1.5,
    )


def write_evaluation(folder: Path, radius: float, *, m: int = 2, **changes: Any) -> str:
    """The front of ``front`` as an evaluation leaves it; ``changes`` are of its JSON."""
    kind = changes.get("kind", "reward")
    result = front(radius, m, folder.name, kind=kind if isinstance(kind, str) else "reward")
    atomic_write_json(folder / "front.json", {**result.to_json(), **changes})
    return str(folder)


def write_training(folder: Path, steps: dict[int, float], **changes: Any) -> str:
    """A run that was evaluated at ``steps``, with the radius of each front; the last one counts."""
    for step, radius in steps.items():
        write_evaluation(folder, radius, **{"label": "Panacea", **changes, "step": step})
        nothing = dict.fromkeys(("distributions", "base_distributions", "responses"), ())
        shown = evaluation(step, radius).having(result=FrontResult.load(folder), **nothing)
        append_line(folder / "evaluations.jsonl", dumps(shown.to_json()))
    (folder / "front.json").rename(folder / "results.json")
    return str(folder)


def write_quickstart(folder: Path, **radii: float) -> str:
    """What ``make quickstart`` leaves: a result per experiment and method."""
    kinds = {"dpo": "accuracy", "ppo": "reward", "ppo_true_scores": "true score"}
    labels = {"panacea": "Panacea", "rewarded_soups": "Rewarded Soups"}
    experiments: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for name, kind in kinds.items():
        for method, radius in radii.items():
            fields = {"kind": kind, "method": method, "reference_point": [-1.0, -2.0]}
            axes = [f"{objective} (mean {kind})" for objective in TWO]
            result = front(radius, label=labels[method], axis_labels=axes, **fields)
            experiments[name][method] = result.to_json()
    atomic_write_json(folder / "results.json", {"experiments": experiments, "seed": 1})
    return str(folder)


def write_responses(folder: Path, *, with_base: bool = True) -> None:
    """Two prompts; the second's rewards vary more. One response is no friend of tables."""
    rows = []
    for index, prompt in enumerate(("calm", "wild")):
        formatted = f"BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:"
        for first in (0.0, 0.5, 1.0):
            size = (1 + 9 * index) * first
            text = f"<script>{prompt}</script> a|b at {first}"
            row = {"prompt": formatted, "response": text, "rewards": [size, -size]}
            rows.append({**row, "preference": [first, 1 - first]})
        base = {"prompt": formatted, "response": "base", "rewards": [float(index), 0.0]}
        if with_base:
            rows.append({**base, "preference": []})
    atomic_write_json(folder / "responses.json", rows)
