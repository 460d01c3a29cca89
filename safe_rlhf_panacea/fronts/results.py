"""The one form in which a front is kept, ``front.json``, whoever measured it and whenever.

Format 2 has these keys:

- ``format``; ``kind``: ``reward`` (mean rewards of sampled responses), ``accuracy`` (of the
  implicit reward on labelled pairs), ``log-sigmoid`` (mean log σ of its margins towards the label,
  in nats), ``log-likelihood`` (per token, of held-out texts) or ``true score`` (the miniature's own
  judgement);
- ``label``, ``method`` (a key of ``LABELS``), ``aggregation``, ``fixed_scaling``, ``step`` (of
  training; null at its end), ``cost`` (``training_seconds``, ``stored_parameters``,
  ``trained_models``): what was measured;
- ``objectives``, ``axis_labels``: m names, m texts with units;
- ``front``: a point per λ with ``preference``, ``objectives`` (J), ``standard_errors`` (of J),
  ``kl`` (estimate of KL(π_λ ‖ π_ref) in nats per response) and ``kl_error``; these two are null
  in folders of earlier versions, which did not measure them;
- ``reference_point`` and the indicators: ``hypervolume``, ``inner_product``, ``sparsity``,
  ``spacing``, ``dominated``, ``spearman``;
- ``base``: ``objectives`` and ``standard_errors`` of the model with its adapter off, or null;
- ``metadata``: counts of prompts and of labelled pairs or texts.

An accuracy is the share of an objective's labelled pairs that the implicit reward orders as the
label does; a tie, as every pair is before the first step, counts half.

``front.json`` of an evaluation and ``results.json`` of a training hold one such result,
``evaluations.jsonl`` one per line, the quickstart's ``results.json`` one per experiment and
method, the front benchmark's files one per arm. ``upgrade.py`` reads earlier formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.datasets.safe_rlhf_template import without_template
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.front import Front, FrontPoint
from safe_rlhf_panacea.fronts.indicators import summarize
from safe_rlhf_panacea.fronts.schema import FORMAT, NONE, check_result, check_whole_result
from safe_rlhf_panacea.fronts.upgrade import upgrade
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.shapes import Number, misfit

FRONT_FILE = "front.json"
RESPONSES_FILE = "responses.json"
LABELS = {
    "panacea": "Panacea",
    "rewarded_soups": "Rewarded Soups",
    "discrete_policies": "Discrete policies",
}
UNITS = {
    "reward": "mean reward",
    "accuracy": "implicit-reward accuracy",
    "log-sigmoid": "mean log σ of the margin",
    "log-likelihood": "mean log-probability per token",
    "true score": "the corpus's score",
}


@dataclass(frozen=True)
class Origin:
    """What a front is a front of.

    Attributes:
        method: a key of ``LABELS``.
        label: in tables and pictures; empty: the method's.
        flags: that training was started with.
        step: of training; None at its end.
        training_seconds: None where they are not known.
        stored_parameters: numbers in the adapters.
        trained_models: how many adapters there are.
    """

    method: str
    label: str
    flags: Mapping[str, Any]
    step: int | None
    training_seconds: float | None
    stored_parameters: int
    trained_models: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Its keys in a result."""
        seconds = self.training_seconds
        scaling = self.flags.get("fixed_scaling") if self.method == "panacea" else None
        return {
            "method": self.method,
            "label": self.label or LABELS[self.method],
            "aggregation": self.flags.get("aggregation"),
            "fixed_scaling": scaling,
            "step": self.step,
            "cost": {
                "training_seconds": None if seconds is None else round(seconds, 3),
                "stored_parameters": self.stored_parameters,
                "trained_models": self.trained_models,
            },
        }


def front_result(
    front: Front,
    kind: str,
    reference_point: list[float],
    origin: Origin,
    base: FrontPoint | None = None,
    unit: str | None = None,
) -> dict[str, Any]:
    """A result as plain values.

    Args:
        front: the points.
        kind: a key of ``UNITS``.
        reference_point: of the hypervolume, m numbers.
        origin: what was measured.
        base: what the model reaches with its adapter off; None where that means nothing.
        unit: in place of the kind's.
    """
    start = base and {"objectives": base.objectives, "standard_errors": base.standard_errors}
    return {
        "format": FORMAT,
        "kind": kind,
        **origin.to_dict(),
        "objectives": list(front.objectives),
        "axis_labels": [f"{name} ({unit or UNITS[kind]})" for name in front.objectives],
        **summarize(front, reference_point),
        "base": start,
        "metadata": front.metadata,
    }


def front_of(result: Mapping[str, Any]) -> Front:
    """The points of a result, with its label."""
    return Front.from_dict({**result, "points": result["front"]})


def checked(where: str, content: Any) -> dict[str, Any]:
    """A result of any version in the form of this one.

    Args:
        where: the file, and the line in it where there is one.
        content: what it holds.

    Raises:
        UserError: it is none, or damaged.
    """
    result = upgrade(content) if isinstance(content, dict) else None
    if result is None or result.get("format") != FORMAT:
        raise UserError(f"{where}: not a result of this version (format {FORMAT})")
    check_result(where, result)
    return result


def read_result(folder: str | Path) -> dict[str, Any]:
    """The result that an evaluation wrote into ``folder``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(folder) / FRONT_FILE
    result = checked(str(path), read_json(path))
    check_whole_result(str(path), result)
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
    rewards = [(Number, NONE), m]  # null where an objective does not count
    row = {"prompt": str, "response": str, "preference": vector, "rewards": rewards}
    if wrong := misfit(rows, [row]):
        raise UserError(f"{path}: it does not fit the {m} objectives of its front.json: {wrong}")
    if not rows:
        raise UserError(f"{path} holds no response")
    for response in rows:
        response["prompt"] = without_template(response["prompt"])
    return rows
