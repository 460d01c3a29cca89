"""Whether what a file holds is a result, as ``results.py`` describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.indicators import INDICATORS
from safe_rlhf_panacea.shapes import Integer, Number, misfit

FORMAT = 2
NONE = type(None)
SAME_PREFERENCE = 1e-6  # two λ that differ by no more are one
NATURES = {
    "kind": str,
    "method": (str, NONE),
    "label": (str, NONE),
    "step": (int, NONE),
}
POINT = ("preference", "objectives", "standard_errors")
COST = {
    "training_seconds": (Number, NONE),
    "stored_parameters": Integer,
    "trained_models": Integer,
}


def same_preference(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two λ agree but for rounding."""
    return all(abs(a - b) <= SAME_PREFERENCE for a, b in zip(first, second, strict=True))


def check_result(where: str, result: Mapping[str, Any]) -> None:
    """Whether ``result`` has what a front needs, in the schema of ``front.json``.

    Args:
        where: the file, and the line in it where there is one.
        result: what it holds.

    Raises:
        UserError: what is missing or of another shape.
    """
    missing = [
        key for key in ("kind", "objectives", "reference_point", "front") if key not in result
    ]
    if missing:
        raise UserError(f"{where}: no front: {', '.join(missing)} missing")
    for key, kinds in NATURES.items():
        if not isinstance(result.get(key), kinds):
            raise UserError(f"{where}: {key} is {result[key]!r}, which it cannot be")
    names = result["objectives"]
    if not _names(names) or len(set(names)) < max(2, len(names)):
        raise UserError(f"{where}: objectives must be two or more different names, not {names!r}")
    axis_labels = result.get("axis_labels") or names
    if not _names(axis_labels) or len(axis_labels) != len(names):
        raise UserError(f"{where}: axis_labels must be {len(names)} texts, one per objective")
    if not _numbers(result["reference_point"], len(names)):
        raise UserError(f"{where}: reference_point must be {len(names)} finite numbers")
    _check_points(where, result["front"], len(names))


def check_whole_result(where: str, result: Mapping[str, Any]) -> None:
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
        "label": str,
        "fixed_scaling": (Number, NONE),
        "step": (Integer, NONE),
        "cost": COST,
        "metadata": dict,
    }
    if wrong := misfit(result, shape):
        raise UserError(f"{where}: {wrong}")


def _check_points(where: str, points: Any, m: int) -> None:
    if not isinstance(points, list) or not points:
        raise UserError(f"{where}: front must be a list of points, one or more")
    for number, point in enumerate(points, 1):
        for key in POINT:
            if not isinstance(point, dict) or not _numbers(point.get(key), m):
                raise UserError(
                    f"{where}: point {number} of the front: {key} must be {m} finite numbers"
                )
        kl = [point.get("kl", ""), point.get("kl_error", "")]
        if misfit(kl, ([Number], [NONE])):
            raise UserError(
                f"{where}: point {number} of the front: kl and kl_error must be numbers, or null"
            )
        if any(same_preference(point["preference"], p["preference"]) for p in points[: number - 1]):
            raise UserError(f"{where}: the front has λ {point['preference']} twice")


def _names(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and value for value in values)


def _numbers(values: Any, count: int) -> bool:
    return misfit(values, [Number, count]) is None
