"""Dropout: whether a model has any, and a context without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

# Of heads that neither a policy nor a critic has.
OTHER_HEADS = ("classifier_dropout", "summary_first_dropout")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, nothing is dropped at random, and no random number is drawn."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _rates(config: Mapping[str, Any]) -> Iterator[float]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _rates(value)
        elif "drop" in str(name) and name not in OTHER_HEADS and isinstance(value, (int, float)):
            yield value


def has_dropout(module: nn.Module) -> bool:
    """Whether training mode changes the output.

    Attention's dropout is often a function and no module: the configuration knows of it.
    """
    config = getattr(module, "config", None)
    rates = _rates(config.to_dict()) if config is not None else ()
    modules = (m.p for m in module.modules() if isinstance(m, nn.Dropout))
    return any(rate > 0 for rate in (*modules, *rates))
