"""What a reward function may return."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError


def checked_scores(values: Any, path: str, like: torch.Tensor) -> torch.Tensor:
    """What a function returned as scores, size = (B,), float32.

    Args:
        values: what it returned.
        path: the function's, for messages.
        like: size = (B, ...), on the device of the scores.

    Raises:
        UserError: it is not one finite number for each response.
    """
    if not isinstance(values, torch.Tensor):
        values = _numbers(values, path)
    if values.is_complex():
        raise UserError(f"{path} returned complex numbers")
    scores = values.to(dtype=torch.float32, device=like.device)
    if scores.shape != like.shape[:1]:
        raise UserError(f"{path} returned shape {tuple(scores.shape)} for {len(like)} responses")
    if not scores.isfinite().all():
        row = int(scores.isfinite().logical_not().nonzero()[0])
        raise UserError(f"{path} returned a score that is not finite: {scores[row]:g} in row {row}")
    return scores


def _numbers(values: Any, path: str) -> torch.Tensor:
    """A sequence of numbers as a tensor, or which of its rows is none."""
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        rows = values if isinstance(values, (list, tuple)) else ()
    odd = next((i for i, value in enumerate(rows) if not isinstance(value, Real)), None)
    what = f"a {type(values).__name__}" if odd is None else f"{rows[odd]!r} in row {odd}"
    raise UserError(f"{path} returned {what}; one number per response is wanted")
