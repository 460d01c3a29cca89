"""Gradient checkpointing repeats a forward pass inside the backward pass: at the same λ, or wrong.

Each of torch's two kinds has a place that outlives the recomputation, where the first pass can
leave what it saw. Non-reentrant: tensors saved for the backward pass are replaced by recomputed
ones, plain attributes of an autograd function's ``ctx`` are not. Reentrant: the first pass runs
inside the forward of an autograd function, and the repetition inside the backward of that ``ctx``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

from safe_rlhf_panacea.adapter.config import AdapterError
from safe_rlhf_panacea.adapter.state import PreferenceState

_SEEN = "panacea_seen"  # on a ctx: what the layers of the first pass saw


def _refuse() -> None:
    raise AdapterError(
        "the preference changed, or the adapter was switched or merged, between a forward pass and "
        "its recomputation by gradient checkpointing: set it back before backward()"
    )


class _Witness(torch.autograd.Function):
    """The identity; its backward pass compares the λ of both passes (non-reentrant)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mark: int) -> torch.Tensor:
        ctx.mark = mark
        ctx.save_for_backward(torch.tensor(mark))
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mark,) = ctx.saved_tensors
        if mark.item() != ctx.mark:
            _refuse()
        return gradient, None


def witnessed(x: torch.Tensor, state: PreferenceState) -> torch.Tensor:
    """``x``, with a witness of λ in its graph if anything may replace saved tensors."""
    replaceable = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    return _Witness.apply(x, state.mark) if replaceable and torch.is_grad_enabled() else x


def check_repetition(state: PreferenceState, *, merged: bool) -> None:
    """Remember what a layer's first pass sees; refuse another repetition of it (reentrant)."""
    if torch.is_grad_enabled():
        if torch._C._current_graph_task_id() != -1:  # inside a backward pass
            seen = getattr(torch._C._current_autograd_node(), _SEEN, None)
            if seen is not None and (id(state), state.mark, state.enabled, merged) not in seen:
                _refuse()
    # The forward of an autograd function switches off both kinds of gradients, no_grad only one.
    elif not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled():
        ctx = _surrounding_function()
        if ctx is not None:
            seen = ctx.__dict__.setdefault(_SEEN, set())
            seen.add((id(state), state.mark, state.enabled, merged))


def _surrounding_function() -> Any:
    """The ``ctx`` of the autograd function whose forward runs at the moment, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_varnames[:1] == ("ctx",):
            ctx = frame.f_locals["ctx"]
            if isinstance(ctx, torch.autograd.function.FunctionCtx):
                return ctx
        frame = frame.f_back
    return None
