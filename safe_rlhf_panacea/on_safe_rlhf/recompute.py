"""Gradient checkpointing on a frozen base."""

from __future__ import annotations

import functools
from typing import Any


def recompute_without_reentry(model: Any) -> None:
    """Let ``gradient_checkpointing_enable()``, as Safe-RLHF calls it, choose the kind that works.

    The re-entrant kind, transformers' default, gives no gradient at all where the inputs of a
    layer need none: always, with a frozen embedding.
    """
    enable = type(model).gradient_checkpointing_enable
    model.gradient_checkpointing_enable = functools.partial(enable, model, {"use_reentrant": False})
