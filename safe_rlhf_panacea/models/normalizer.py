"""Running statistics of the scores, and what is done to scores with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from safe_rlhf_panacea.errors import UserError

NormalizeFunction = Literal["affine", "scale", "translate", "identity"]
NormalizerType = Literal["RunningMeanStd", "ExponentialMovingAverage"]


class Normalizer(nn.Module):
    """Keeps mean and variance of the last dimension's D scores, under Safe-RLHF's names.

    Buffers: ``mean`` (D,), ``var`` (D,), ``count`` (1,). They start at 0, 1, 0 and stay float32
    whatever type the model is cast to: small updates to a running mean are lost in bfloat16.
    Variances are the population's (divided by n), so that running statistics over batches equal
    those of all rows at once, and a batch of one row is no NaN.

    ``update`` keeps them of every row so far, or as momentum · old + (1 - momentum) · batch, with
    0.9 as the default; without a type it does nothing. ``normalize`` takes off the mean, divides by
    the deviation, both or neither. Unknown names, and a momentum outside [0, 1), are refused.
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(
        self,
        normalizer_type: NormalizerType | None,
        normalize_function: NormalizeFunction,
        shape: tuple[int, ...],
        momentum: float | None = None,
    ) -> None:
        """Start with mean 0 and variance 1."""
        super().__init__()
        types, functions = (*get_args(NormalizerType), None), get_args(NormalizeFunction)
        for name, given, known in (
            ("normalize_function", normalize_function, functions),
            ("normalizer_type", normalizer_type, types),
        ):
            if given not in known:
                raise UserError(f"{name} {given!r} is none of {', '.join(map(str, known))}")
        self.normalizer_type, self.normalize_function = normalizer_type, normalize_function
        self.momentum = 0.9 if momentum is None else momentum
        if normalizer_type == "ExponentialMovingAverage" and not 0 <= self.momentum < 1:
            raise UserError(f"the normalizer's momentum {momentum} is not in [0, 1)")
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def update(self, data: torch.Tensor) -> None:
        """Take in scores, size = (N, D)."""
        if self.normalizer_type is None:
            return
        data = data.to(self.mean.dtype)
        rows, seen = data.size(0), self.count
        mean, var = data.mean(dim=0), data.var(dim=0, unbiased=False)
        if self.normalizer_type == "RunningMeanStd":  # Chan's parallel algorithm
            total = seen + rows
            delta = mean - self.mean
            spread = self.var * seen + var * rows + delta.square() * (seen * rows / total)
            self.mean.add_(delta * rows / total)
            self.var.copy_(spread / total)
        else:
            self.mean.lerp_(mean, 1 - self.momentum)
            self.var.lerp_(var, 1 - self.momentum)
        self.count.add_(rows)

    def normalize(self, data: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
        """Normalise scores, size = (..., D), by the statistics as they are."""
        if self.normalize_function in ("affine", "translate"):
            data = data - self.mean
        if self.normalize_function in ("affine", "scale"):
            data = data / (self.var.sqrt() + epsilon)
        return data

    def set_mean_var(
        self,
        mean: torch.Tensor | Sequence[float] | None,
        var: torch.Tensor | Sequence[float] | None,
    ) -> None:
        """Set the statistics, which must be D each; None keeps what is there."""
        for name, value in (("mean", mean), ("var", var)):
            if value is None:
                continue
            buffer = getattr(self, name)
            value = torch.as_tensor(value, dtype=buffer.dtype, device=buffer.device)
            found, wanted = tuple(value.shape), tuple(buffer.shape)
            if found != wanted:
                raise UserError(f"the normalizer's {name} has shape {found}, {wanted} is right")
            buffer.copy_(value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow the model to its device, not to its type."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(buffer).device)
        return self
