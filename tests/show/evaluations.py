"""Evaluations with numbers that can be checked by hand."""

from __future__ import annotations

from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.measurement import origin
from safe_rlhf_panacea.fronts.result import FrontPoint, FrontResult, Reached

NAMES = ["helpful", "harmless"]
GRID = ([0.0, 1.0], [0.5, 0.5], [1.0, 0.0])


def evaluation(step: int, radius: float) -> Evaluation:
    """J_i = radius · λ_i, measured from the origin; three responses to each of two prompts."""
    points = [
        FrontPoint(
            preference=row,
            objectives=[radius * v for v in row],
            standard_errors=[0.1, 0.1],
            kl=kl,
            kl_error=0.01,
        )
        for row, kl in zip(GRID, (0.3, 0.2, 0.1), strict=True)
    ]
    result = FrontResult(
        kind="reward",
        objectives=NAMES,
        points=points,
        reference_point=[0.0, 0.0],
        base=Reached(objectives=[0.1, 0.1], standard_errors=[0.1, 0.1]),
        **origin("panacea", "run", {}, step, 1.0, 10),
    )
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
        result=result,
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
