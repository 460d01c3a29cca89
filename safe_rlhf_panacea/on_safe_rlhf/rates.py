"""Learning rates of their own where Safe-RLHF makes its optimisers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from safe_rlhf_panacea.base.engine import with_own_rates


@contextmanager
def own_rates(trainers: ModuleType, lr: float) -> Iterator[None]:
    """Inside, parameters with an ``lr_multiplier`` come in optimiser groups with their own rate.

    Args:
        trainers: Safe-RLHF's module that calls ``get_optimizer_grouped_parameters``.
        lr: the learning rate of the others.
    """
    original = trainers.get_optimizer_grouped_parameters

    def split(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return with_own_rates(original(*args, **kwargs), lr)

    vars(trainers)["get_optimizer_grouped_parameters"] = split
    try:
        yield
    finally:
        vars(trainers)["get_optimizer_grouped_parameters"] = original
