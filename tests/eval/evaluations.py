"""Evaluation folders with numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.fronts.result import Cost, FrontPoint, FrontResult
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.preference import preference_grid

NAMES = ("helpful", "harmless", "concise")


def front(radius: float, m: int = 2, label: str = "", **fields: Any) -> FrontResult:
    """J_i = radius · λ_i at a coarse grid; the reference point is the origin."""
    names, kind = NAMES[:m], fields.get("kind", "reward")
    points = [
        FrontPoint(
            preference=row,
            objectives=[radius * value for value in row],
            standard_errors=[0.1] * m,
            kl=0.2,
            kl_error=0.01,
        )
        for row in preference_grid(m, 0.5).double().tolist()
    ]
    given = {
        "kind": kind,
        "method": "panacea",
        "label": label,
        "aggregation": "ls",
        "cost": Cost(training_seconds=1.5, stored_parameters=10),
        "objectives": names,
        "axis_labels": [f"{name} ({kind})" for name in names],
        "points": points,
        "reference_point": [0.0] * m,
    }
    return FrontResult(**{**given, **fields})


def write_evaluation(folder: Path, radius: float, *, m: int = 2, **changes: Any) -> str:
    """The front of ``front`` as an evaluation leaves it; ``changes`` are of its JSON."""
    kind = changes.get("kind", "reward")
    result = front(radius, m, folder.name, kind=kind if isinstance(kind, str) else "reward")
    atomic_write_json(folder / "front.json", {**result.to_json(), **changes})
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
