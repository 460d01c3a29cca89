"""Titles of pictures of fronts: what one sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# At the beginning of a title, and after another one.
METHODS = {
    "panacea": ("One adapter, any λ", "one adapter, any λ"),
    "rewarded_soups": ("Rewarded Soups", "Rewarded Soups"),
    "discrete_policies": ("One model per λ", "one model per λ"),
}
NAMED = 3  # fronts in a title; of more, their number


def against(objectives: Sequence[str]) -> str:
    """``positive against concise``; three objectives and more as a list."""
    if len(objectives) == 2:
        return " against ".join(objectives)
    return f"{', '.join(objectives[:-1])} and {objectives[-1]}"


def fronts_title(results: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> str:
    """Of one front, or of several of the same objectives.

    Args:
        results: in the form of ``front.json``.
        labels: of the fronts; they are told apart by these where two are of one method.
    """
    objectives, count = against(results[0]["objectives"]), len(results)
    methods = [METHODS.get(str(result.get("method"))) for result in results]
    if None not in methods and len(set(methods)) == count:
        first, *others = methods
        text = first[0]
        if others:
            text += f", beside {' and '.join(name for _, name in others)}"
    elif len(labels) == count <= NAMED:
        text = " and ".join(labels)
    else:
        text = f"{count} fronts" if count > 1 else str(results[0].get("label") or "Front")
    return f"{text}: {objectives}"
