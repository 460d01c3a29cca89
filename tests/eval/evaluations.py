"""Evaluation folders with numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.fronts.front import Front, FrontPoint
from safe_rlhf_panacea.fronts.indicators import summarize
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.preference import preference_grid

NAMES = ("helpful", "harmless", "concise")


def write_evaluation(folder: Path, radius: float, *, m: int = 2, **changes: Any) -> str:
    """A front J_i = radius · λ_i; its reference point is the origin."""
    names = list(NAMES[:m])
    points = [
        FrontPoint(row, [radius * value for value in row], [0.1] * m, 0.2, 0.01)
        for row in preference_grid(m, 0.5).double().tolist()
    ]
    kind = changes.get("kind", "reward")
    result = {
        "format": 2,
        "kind": kind,
        "method": "panacea",
        "label": folder.name,
        "objectives": names,
        "axis_labels": [f"{name} ({kind})" for name in names],
        "aggregation": "ls",
        "fixed_scaling": None,
        "step": None,
        "base": None,
        "cost": {"training_seconds": 1.5, "stored_parameters": 10, "trained_models": 1},
        "metadata": {},
        **summarize(Front(names, points), [0.0] * m),
    }
    atomic_write_json(folder / "front.json", {**result, **changes})
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
