"""Products with weights that are not trained, and W0 x + b + U diag(d) Vᵀ x as one function.

On some processors torch's default, MKL, reaches less than half of what oneDNN does in float32.
oneDNN is used where it was clearly faster when first asked: a small difference is not worth that a
run's last bits depend on it. Its operator is not public, so anything it does not know falls back.

The adapted product has a backward pass of its own. W0 and b are frozen, so nothing is kept for
them, and both parts of dx are summed in place. The thin products are written with the thin matrix
on the left: on a CPU x V takes four times as long as Vᵀ xᵀ, the same numbers, because the library
cuts its work along the rows of the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

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


def _times(low: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """Coordinates, size = (r, N), times d, size = (r,) or, for B rows of the batch, (B, r)."""
    if diagonal.dim() == 1:
        return low * diagonal.unsqueeze(1)
    rank, rows = low.size(0), diagonal.size(0)
    return (low.view(rank, rows, -1) * diagonal.t().unsqueeze(-1)).view(rank, -1)


def _summed(products: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The gradient of d, of its size, from that of each token, size = (r, N)."""
    if like.dim() == 1:
        return products.sum(dim=1)
    return products.view(products.size(0), like.size(0), -1).sum(dim=-1).t()


def low_rank_product(
    x: torch.Tensor,  # size = (N, in)
    weight: torch.Tensor,  # size = (out, in)
    bias: torch.Tensor | None,  # size = (out,)
    v: torch.Tensor,  # size = (in, r)
    u: torch.Tensor,  # size = (out, r)
    diagonal: torch.Tensor,  # size = (r,) or (B, r), N being a multiple of B
    transposed: bool = False,  # whether the weight is kept as (in, out)
) -> tuple[torch.Tensor, torch.Tensor]:
    """The product, size = (N, out), and Vᵀ xᵀ, size = (r, N)."""
    low = v.t() @ x.t()
    result = frozen_linear(x, weight.t() if transposed else weight, bias)
    return result.addmm_(_times(low, diagonal).t(), u.t()), low


class LowRankProduct(torch.autograd.Function):
    """``low_rank_product`` with gradients of x, V, U and d."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        v: torch.Tensor,
        u: torch.Tensor,
        diagonal: torch.Tensor,
        transposed: bool,
    ) -> torch.Tensor:
        """Size = (N, out)."""
        result, low = low_rank_product(x, weight, bias, v, u, diagonal, transposed)
        ctx.transposed = transposed
        # Parameters and not views of them: ZeRO 3 gathers them anew for the backward pass.
        ctx.save_for_backward(x, weight, v, u, diagonal, low)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of the result is of size (N, out)."""
        x, weight, v, u, diagonal, low = ctx.saved_tensors
        of_x, _, _, of_v, of_u, of_diagonal, _ = ctx.needs_input_grad
        dx = dv = du = dd = None
        behind = u.t() @ gradient.t()  # size = (r, N)
        if of_x or of_v:
            scaled = _times(behind, diagonal)
            if of_x:
                dx = frozen_linear(gradient, weight if ctx.transposed else weight.t())
                dx.addmm_(scaled.t(), v.t())
            if of_v:
                dv = (scaled @ x).t()
        if of_u:
            du = (_times(low, diagonal) @ gradient).t()
        if of_diagonal:
            dd = _summed(behind * low, diagonal)
        return dx, None, None, dv, du, dd, None
