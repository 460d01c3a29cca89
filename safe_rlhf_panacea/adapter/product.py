"""W0 x + b + U diag(d) Vᵀ x as one function with a backward pass of its own.

W0 and b are frozen, so nothing is kept for them, and both parts of dx are summed in place. The thin
products are written with the thin matrix on the left: on a CPU x V takes four times as long as
Vᵀ xᵀ, the same numbers, because the library cuts its work along the rows of the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from safe_rlhf_panacea.adapter.frozen import frozen_linear


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
