"""Some rows of a batch in a forward pass of their own, each at its λ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from safe_rlhf_panacea.adapter.layer import SvdLoraLinear
from safe_rlhf_panacea.adapter.state import PreferenceState


def _states(model: nn.Module) -> list[PreferenceState]:
    """λ of all adapters in a model."""
    layers = (module for module in model.modules() if isinstance(module, SvdLoraLinear))
    return list({id(layer.state): layer.state for layer in layers}.values())


def have_one_preference(model: nn.Module, batch: int, copies: int) -> bool:
    """Whether the rows of a batch, taken ``copies`` at a time, have the same λ each time."""
    for value in (state.value for state in _states(model) if state.value.dim() == 2):
        repeated = batch // len(value)  # beyond 1 where ``generate`` repeats each row
        if repeated % copies == 0:
            continue
        if repeated > 1:
            return False
        groups = value.view(-1, copies, value.size(-1))
        if not (groups == groups[:, :1]).all():
            return False
    return True


@contextmanager
def taking_rows(model: nn.Module, rows: torch.Tensor, batch: int) -> Iterator[None]:
    """Inside, passes of a model are over some rows of a batch; without adapters nothing changes.

    Args:
        model: whatever holds adapted layers, of one adapter or of several.
        rows: which rows a pass consists of, in its order, int64.
        batch: how many rows the whole batch has.
    """
    with ExitStack() as stack:
        for state in _states(model):
            stack.enter_context(state.taking(rows, batch))
        yield


@contextmanager
def at_first_row(model: nn.Module) -> Iterator[None]:
    """Inside, passes of a model may have any number of rows, all at the λ of the first one."""
    with ExitStack() as stack:
        for state in _states(model):
            if state.value.dim() == 2:
                stack.enter_context(state.kept())
                state.set(state.value[0], state.value.device)
        yield
