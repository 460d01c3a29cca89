"""Some rows of a batch in a forward pass of their own, each at its λ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from safe_rlhf_panacea.adapter.layer import SvdLoraLinear


@contextmanager
def taking_rows(model: nn.Module, rows: torch.Tensor, batch: int) -> Iterator[None]:
    """Inside, passes of a model are over some rows of a batch; without adapters nothing changes.

    Args:
        model: whatever holds adapted layers, of one adapter or of several.
        rows: which rows a pass consists of, in its order, int64.
        batch: how many rows the whole batch has.
    """
    layers = (module for module in model.modules() if isinstance(module, SvdLoraLinear))
    states = {id(layer.state): layer.state for layer in layers}
    with ExitStack() as stack:
        for state in states.values():
            stack.enter_context(state.taking(rows, batch))
        yield
