"""Products with weights that are not trained, by the faster of two libraries.

On some processors torch's default, MKL, reaches less than half of what oneDNN does in float32.
oneDNN is used where it was clearly faster when first asked: a small difference is not worth that a
run's last bits depend on it. Its operator is not public, so anything it does not know falls back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F

CLEARLY_FASTER = 1.3
ROUNDS = 12


def _by_onednn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _seconds(product: Callable[..., torch.Tensor], x: torch.Tensor, weight: torch.Tensor) -> float:
    start = time.thread_time()  # waiting for a busy machine does not count
    product(x, weight)
    return time.thread_time() - start


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Measured once in a process, on one thread: several wait for each other on a busy machine."""
    x, weight = torch.ones(256, 512), torch.ones(512, 512)
    try:
        _by_onednn(x, weight)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    default, onednn = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            default.append(_seconds(F.linear, x, weight))
            onednn.append(_seconds(_by_onednn, x, weight))
    finally:
        torch.set_num_threads(threads)
    return min(default) > CLEARLY_FASTER * min(onednn)


def frozen_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``F.linear`` without a gradient, of size (N, out).

    ``x`` is of size (N, in), ``weight`` (out, in), contiguous or transposed, ``bias`` (out,).
    """
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    special = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
    if fits and not special and onednn_is_faster():
        return _by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)
