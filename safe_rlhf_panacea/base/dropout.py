"""Whether a model gives the same numbers in training as in evaluation."""

from __future__ import annotations

from torch import nn


def has_dropout(module: nn.Module) -> bool:
    """Whether training mode changes the output."""
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules())
