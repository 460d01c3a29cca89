"""The fronts in the quickstart's ``results.json``, in the schema of ``front.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.policies import LABELS
from safe_rlhf_panacea.evaluation.schema import check_result

# Kind and unit of each experiment's numbers.
EXPERIMENTS = {
    "ppo": ("reward", "mean reward in SFT std."),
    "ppo_true_scores": ("true score", "the corpus's score"),
    "dpo": ("accuracy", "implicit-reward accuracy"),
}


def quickstart_results(file: Path, experiments: Any, choice: str | None) -> list[dict[str, Any]]:
    """The chosen fronts, one per method.

    Args:
        file: that ``experiments`` were read from.
        experiments: reference point, objectives and one entry per method, by experiment.
        choice: ``EXPERIMENT`` or ``EXPERIMENT/METHOD``.

    Raises:
        UserError: no choice, or one that is not there; the choices are listed.
    """
    methods = _methods(file, experiments)
    name, _, method = (choice or "").partition("/")
    chosen = [method] if method else methods.get(name, [])
    if not chosen or not set(chosen) <= set(methods.get(name, [])):
        choices = ", ".join(
            f":{name} or :{name}/{'|'.join(found)}" for name, found in methods.items()
        )
        asked = f"has no {choice}" if choice else "holds several fronts"
        raise UserError(f"{file.parent} {asked}: choose with {file.parent} and one of {choices}")
    return [_result(file, name, experiments[name], method) for method in chosen]


def _methods(file: Path, experiments: Any) -> dict[str, list[str]]:
    """The methods of every experiment."""
    if not isinstance(experiments, dict):
        raise UserError(f"{file}: experiments must be named entries")
    found = {}
    for name, entry in experiments.items():
        methods = entry if isinstance(entry, dict) else {}
        found[name] = [k for k, v in methods.items() if isinstance(v, dict) and "front" in v]
        if not found[name]:
            raise UserError(f"{file}: experiment {name} holds no front")
    return found


def _result(file: Path, name: str, entry: dict[str, Any], method: str) -> dict[str, Any]:
    kind, unit = EXPERIMENTS.get(name, (name, name))
    result = {
        "kind": kind,
        "method": method,
        "label": LABELS.get(method, method),
        "front": entry[method]["front"],
        **{key: entry[key] for key in ("objectives", "reference_point") if key in entry},
    }
    check_result(f"{file}: {name}/{method}", result)
    return {**result, "axis_labels": [f"{objective} ({unit})" for objective in entry["objectives"]]}
