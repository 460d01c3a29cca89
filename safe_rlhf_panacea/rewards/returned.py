"""What a reward function may return."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.errors import UserError


def checked_scores(values: Any, path: str, like: torch.Tensor) -> torch.Tensor:
    """What a function returned as scores, size = (B,), float32; NaN where it returned None.

    Args:
        values: what it returned.
        path: the function's, for messages.
        like: size = (B, ...), on the device of the scores.

    Raises:
        UserError: it is not one finite number or None for each response.
    """
    missing = torch.tensor(False)
    if getattr(values, "dtype", None) == np.dtype(object):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        missing = torch.tensor([value is None for value in values])
        values = [0.0 if value is None else value for value in values]
    if not isinstance(values, torch.Tensor):
        values = _numbers(values, path)
    if values.is_complex():
        raise UserError(f"{path} returned complex numbers")
    scores = values.to(dtype=torch.float32, device=like.device)
    if scores.shape != like.shape[:1]:
        raise UserError(f"{path} returned shape {tuple(scores.shape)} for {len(like)} responses")
    if not scores.isfinite().all():
        row = int(scores.isfinite().logical_not().nonzero()[0])
        hint = "; None says that a row does not count" if scores[row].isnan() else ""
        raise UserError(
            f"{path} returned a score that is not finite: {scores[row]:g} in row {row}{hint}"
        )
    return scores.masked_fill(missing.to(scores.device), torch.nan)


def _numbers(values: Any, path: str) -> torch.Tensor:
    """A sequence of numbers as a tensor, or which of its rows is none."""
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        rows = values if isinstance(values, (list, tuple)) else ()
    odd = next((i for i, value in enumerate(rows) if not isinstance(value, Real)), None)
    what = f"a {type(values).__name__}" if odd is None else f"{rows[odd]!r} in row {odd}"
    raise UserError(f"{path} returned {what}; one number or None per response is wanted")
