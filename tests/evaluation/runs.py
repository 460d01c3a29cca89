"""Folders as evaluations, training runs and the quickstart leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.evaluation.front import Front, FrontPoint
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.miniature.pipeline import experiment
from tests.eval.evaluations import write_evaluation


def write_training(folder: Path, steps: dict[int, float], **changes: Any) -> str:
    """A run that was evaluated at ``steps``, with the radius of each front; the last one counts."""
    lines = []
    for step, radius in steps.items():
        write_evaluation(
            folder, radius, **{"label": "Panacea", "cost": None, **changes, "step": step}
        )
        lines.append(read_json(folder / "front.json"))
    (folder / "front.json").rename(folder / "results.json")
    text = "".join(json.dumps({**line, "responses": []}) + "\n" for line in lines)
    (folder / "evaluations.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def write_quickstart(folder: Path, **radii: float) -> str:
    """What ``make quickstart`` leaves, by the very function that it uses."""
    names = ["helpful", "harmless"]

    def front(radius: float) -> Front:
        points = [
            FrontPoint([x, 1 - x], [radius * x, radius * (1 - x)], [0.1, 0.1])
            for x in (0.0, 0.5, 1.0)
        ]
        return Front(names, points)

    fronts = {method: front(radius) for method, radius in radii.items()}
    seconds = dict.fromkeys(radii, 1.0)
    experiments = {
        name: experiment(fronts, (-1.0, -2.0), seconds)
        for name in ("dpo", "ppo", "ppo_true_scores")
    }
    atomic_write_json(folder / "results.json", {"experiments": experiments, "seed": 1})
    return str(folder)
