"""Attention in passes over whole sequences: which of transformers' implementations is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# On CPUs torch's fused attention in bfloat16 takes two to three times as long as its products
# written out, backwards above all; from about a thousand tokens on it is the faster one, and the
# other one's matrices of every token by every token grow large.
LONGEST_WRITTEN_OUT = 512


def _is_faster_written_out(module: nn.Module, length: int) -> bool:
    weight = next(module.parameters(), None)
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    # What a checkpoint repeats in the backward pass must be what it has seen.
    repeats = any(getattr(m, "gradient_checkpointing", False) for m in module.modules())
    return length <= LONGEST_WRITTEN_OUT and not repeats


@contextmanager
def fastest_attention(module: nn.Module, length: int) -> Iterator[None]:
    """Inside, passes over ``length`` tokens a row take the implementation that is faster.

    Args:
        module: a model of transformers, or around one; others are left as they are.
        length: of the rows, padding included.
    """
    config: Any = getattr(module, "config", None)
    before = getattr(config, "_attn_implementation", None)
    # A configuration within it may have an implementation of its own, which would be lost.
    nested = before is not None and config.get_text_config() is not config
    if before != "sdpa" or nested or not _is_faster_written_out(module, length):
        yield
        return
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
