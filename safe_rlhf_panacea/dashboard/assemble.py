"""From what was measured to a ``Snapshot``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.dashboard.measure import check_finite, shown_responses, singular_values
from safe_rlhf_panacea.dashboard.snapshot import Snapshot
from safe_rlhf_panacea.evaluation.accuracy_front import accuracy_front
from safe_rlhf_panacea.evaluation.results import front_result
from safe_rlhf_panacea.evaluation.reward_front import Prompt, Sampled, mean_front

DIGITS = 5  # of the single values that are kept for distributions


def default_reference_point(base: torch.Tensor) -> list[float]:
    """Two standard deviations below the initial model's mean rewards, to two decimals.

    Args:
        base: rewards of the initial model, size = (P, m).
    """
    spread = base.std(dim=0) if base.size(0) > 1 else torch.zeros(base.size(1))
    return [round(value, 2) for value in (base.mean(dim=0) - 2 * spread).tolist()]


def _lists(values: torch.Tensor) -> list[list[float]]:
    """A list per column, size = (P, m); what is not a number is left out."""
    return [
        [round(value, DIGITS) for value in column[~column.isnan()].tolist()] for column in values.T
    ]


def _kl(log_ratios: torch.Tensor) -> dict[str, list[float]]:
    """Mean and standard error over responses, size = (N, P)."""
    count = log_ratios.size(1)
    errors = log_ratios.std(dim=1) / count**0.5 if count > 1 else torch.zeros(len(log_ratios))
    return {"kl": log_ratios.mean(dim=1).tolist(), "kl_errors": errors.tolist()}


def reward_snapshot(
    sampled: Sampled,
    base: torch.Tensor | None,  # size = (P, m)
    prompts: Sequence[Prompt],
    grid: torch.Tensor,  # size = (N, m)
    objectives: Sequence[str],
    reference_point: list[float],
    adapter: Any,
    about: dict[str, Any],
) -> Snapshot:
    """Of a policy that is trained on rewards; ``about`` is what else the result says."""
    check_finite(sampled.values, sampled.log_ratios, base)
    front = mean_front(sampled.values, grid, objectives, about["label"])
    front.metadata = {"prompts": len(prompts)}
    start = None
    if base is not None:
        start = mean_front(base.unsqueeze(0), torch.zeros(1, len(objectives)), objectives).points[0]
    return Snapshot(
        result={**front_result(front, "reward", reference_point, start), **about},
        distributions=[_lists(values) for values in sampled.values],
        base_distributions=[] if base is None else _lists(base),
        responses=shown_responses(sampled, prompts, grid),
        singular_values=singular_values(adapter),
        **_kl(sampled.log_ratios),
    )


def accuracy_snapshot(
    margins: torch.Tensor,  # size = (N, P)
    labels: torch.Tensor,  # size = (P, m)
    scale: float,
    sampled: Sampled,
    prompts: Sequence[Prompt],
    grid: torch.Tensor,
    objectives: Sequence[str],
    reference_point: list[float],
    adapter: Any,
    about: dict[str, Any],
) -> Snapshot:
    """Of a policy that is trained on pairs; ``scale`` is DPO's β."""
    check_finite(margins, sampled.log_ratios)
    front = accuracy_front(margins, labels, grid, objectives, about["label"])
    front.metadata["prompts"] = len(prompts)
    towards = scale * margins.unsqueeze(-1) * labels  # size = (N, P, m)
    towards = towards.masked_fill(labels.eq(0), float("nan"))
    return Snapshot(
        result={**front_result(front, "accuracy", reference_point), **about},
        distributions=[_lists(values) for values in towards],
        responses=shown_responses(sampled, prompts, grid),
        singular_values=singular_values(adapter),
        **_kl(sampled.log_ratios),
    )
