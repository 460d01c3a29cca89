"""Results of earlier versions in the form of this one (see ``results.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.indicators import summarize
from safe_rlhf_panacea.fronts.schema import FORMAT, NONE
from safe_rlhf_panacea.shapes import Number, misfit

# Kind and unit of the experiments in a quickstart's ``results.json`` before format 2.
EXPERIMENTS = {
    "ppo": ("reward", "mean reward in SFT std."),
    "ppo_true_scores": ("true score", "the corpus's score"),
    "dpo": ("accuracy", "implicit-reward accuracy"),
}
# The front benchmark's reference points, which its files did not name.
ARMS_MEASURED_FROM = {
    "ppo": [-1.75, -1.25],
    "ppo_true_scores": [-1.5, -2.0],
    "dpo": [0.25, 0.25],
}


def upgrade(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of format 1; one of another format stays as it is.

    Format 1 had no KL in its points. Evaluations during training kept it beside them, in ``kl``
    and ``kl_errors``, a number per point. What is damaged stays as it is, for ``check_result``.
    """
    result = dict(result)
    if result.get("format") != 1:
        return result
    points = result.get("front")
    if misfit(points, [dict]) is None:
        columns = [result.pop(key, [None] * len(points)) for key in ("kl", "kl_errors")]
        if all(misfit(column, [(Number, NONE), len(points)]) is None for column in columns):
            rows = zip(points, *columns, strict=True)
            result["front"] = [{**p, "kl": kl, "kl_error": error} for p, kl, error in rows]
    return {**result, "format": FORMAT}


def upgrade_experiment(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment of a quickstart: results by method.

    Before format 2, reference point and objectives stood beside the methods, and a method had
    points, indicators and ``train_seconds``.
    """
    kind, unit = EXPERIMENTS.get(name, (name, name))
    shared = {key: entry[key] for key in ("objectives", "reference_point") if key in entry}
    methods = {k: v for k, v in entry.items() if isinstance(v, dict) and "front" in v}
    found = {}
    for method, values in methods.items():
        if "format" not in values:
            names = shared.get("objectives")
            names = names if isinstance(names, list) else []  # check_result says so
            values = {
                "format": 1,
                "kind": kind,
                "method": method,
                "axis_labels": [f"{objective} ({unit})" for objective in names],
                **shared,
                **values,
            }
        found[method] = values
    return found


def upgrade_arm(name: str, front: Mapping[str, Any]) -> dict[str, Any]:
    """A front of the front benchmark, ``<algorithm>/<arm>/<view>``.

    Before format 2 it was ``objectives``, ``points``, ``label`` and ``metadata`` only.
    """
    if "format" in front:
        return dict(front)
    algorithm, _, view = name.split("/")
    experiment = "ppo_true_scores" if view.startswith("true") else algorithm
    kind, unit = EXPERIMENTS[experiment]
    points = Front.from_dict(front)
    result = {
        "format": 1,
        "kind": kind,
        "label": name,
        "objectives": points.objectives,
        "axis_labels": [f"{objective} ({unit})" for objective in points.objectives],
        **summarize(points, ARMS_MEASURED_FROM[experiment]),
    }
    return upgrade(result)
