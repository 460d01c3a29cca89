"""What an evaluation leaves behind: ``front.json``, which figures, reports and tables read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.front import Front, FrontPoint
from safe_rlhf_panacea.evaluation.indicators import summarize
from safe_rlhf_panacea.evaluation.policies import Policies, training_cost
from safe_rlhf_panacea.evaluation.schema import check_result
from safe_rlhf_panacea.evaluation.tables import INDICATORS
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.shapes import Integer, Number, misfit

FORMAT = 1
FRONT_FILE = "front.json"
RESPONSES_FILE = "responses.json"
NONE = type(None)
COST = {
    "training_seconds": (Number, NONE),
    "stored_parameters": Integer,
    "trained_models": Integer,
}
UNITS = {"reward": "mean reward", "accuracy": "implicit-reward accuracy"}


def evaluation_result(
    front: Front,
    policies: Policies,
    kind: str,
    reference_point: list[float],
    base: FrontPoint | None = None,
) -> dict[str, Any]:
    """Everything about a front, as plain values.

    Args:
        front: the points.
        policies: what was evaluated.
        kind: ``reward`` for mean rewards of sampled responses, ``accuracy`` for that of the
            implicit reward on labelled pairs.
        reference_point: of the hypervolume, m numbers.
        base: what the model reaches with its adapter off; None where that means nothing.
    """
    member = policies.members[0]
    return {
        **front_result(front, kind, reference_point, base),
        "method": policies.method,
        "aggregation": member.flags.get("aggregation"),
        "fixed_scaling": member.config.fixed_scaling if policies.method == "panacea" else None,
        "step": member.step,
        "cost": training_cost(policies.members),
    }


def front_result(
    front: Front, kind: str, reference_point: list[float], base: FrontPoint | None = None
) -> dict[str, Any]:
    """What a result says of the front itself; the arguments are ``evaluation_result``'s."""
    return {
        "format": FORMAT,
        "kind": kind,
        "label": front.label,
        "objectives": list(front.objectives),
        "axis_labels": [f"{name} ({UNITS[kind]})" for name in front.objectives],
        **summarize(front, reference_point),
        "base": None
        if base is None
        else {"objectives": base.objectives, "standard_errors": base.standard_errors},
        "metadata": front.metadata,
    }


def read_result(folder: str | Path) -> dict[str, Any]:
    """The result that an evaluation wrote into ``folder``.

    Raises:
        UserError: there is none, or it is of another format.
    """
    path = Path(folder) / FRONT_FILE
    result = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise UserError(f"{path}: not a result of this version; evaluate the adapter again")
    check_whole_result(str(path), result)
    if wrong := misfit(result, {"label": str, "cost": COST, "fixed_scaling": (Number, NONE)}):
        raise UserError(f"{path}: {wrong}")
    return result


def read_responses(folder: str | Path, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Every sampled response of an evaluation.

    Raises:
        UserError: the evaluation has none, as one of pairs, or the file is damaged.
    """
    path = Path(folder) / RESPONSES_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {RESPONSES_FILE}: evaluate with --reward_models")
    rows = read_json(path)
    m = len(objectives)
    # The initial model's responses stand there without a λ.
    vector = ([Number, m], [Number, 0])
    row = {"prompt": str, "response": str, "preference": vector, "rewards": [Number, m]}
    if wrong := misfit(rows, [row]):
        raise UserError(f"{path}: it does not fit the {m} objectives of its front.json: {wrong}")
    if not rows:
        raise UserError(f"{path} holds no response")
    return rows


def check_whole_result(where: str, result: dict[str, Any]) -> None:
    """``check_result``, and whether everything else is there that ``front_result`` puts in.

    Raises:
        UserError: what is missing or of another shape.
    """
    check_result(where, result)
    m = len(result["objectives"])
    base = {"objectives": [Number, m], "standard_errors": [Number, m]}
    shape = {
        **dict.fromkeys(INDICATORS, Number),
        "spearman": [Number, m],
        "axis_labels": [str, m],
        "base": (base, NONE),
        "step": (Integer, NONE),
        "metadata": dict,
    }
    if wrong := misfit(result, shape):
        raise UserError(f"{where}: {wrong}")


def join(fronts: Sequence[Front]) -> Front:
    """The points of several fronts as one, in their order."""
    first = fronts[0]
    points = [point for front in fronts for point in front.points]
    return Front(list(first.objectives), points, first.label, first.metadata)
