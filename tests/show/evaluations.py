"""Evaluations with numbers that can be checked by hand."""

from __future__ import annotations

from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.result import Reached
from tests.eval.evaluations import front

NAMES = ["helpful", "harmless"]
GRID = ([0.0, 1.0], [0.5, 0.5], [1.0, 0.0])


def evaluation(step: int, radius: float) -> Evaluation:
    """J_i = radius · λ_i, measured from the origin; three responses to each of two prompts."""
    base = Reached(objectives=[0.1, 0.1], standard_errors=[0.1, 0.1])
    result = front(radius, label="run", step=step, base=base)
    kls = zip(result.points, (0.3, 0.2, 0.1), strict=True)
    result = result.having(points=[point.having(kl=kl) for point, kl in kls])
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
