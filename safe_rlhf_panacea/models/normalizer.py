"""Running statistics of the scores, and what is done to scores with them.

Names and buffers are Safe-RLHF's. Variances here are the population's (divided by n), so that
running statistics over batches equal those of all rows at once, and a batch of one row is no NaN.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from safe_rlhf_panacea.errors import UserError

NormalizeFunction = Literal["affine", "scale", "translate", "identity"]
NormalizerType = Literal["RunningMeanStd", "ExponentialMovingAverage"]


class Normalizer(nn.Module, abc.ABC):
    """Keeps mean and variance of the last dimension's D scores.

    Buffers: ``mean`` (D,), ``var`` (D,), ``count`` (1,). They start at 0, 1, 0 and stay float32
    whatever type the model is cast to: small updates to a running mean are lost in bfloat16.

    Raises:
        UserError: ``normalize_function`` is none of the four.
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, normalize_function: NormalizeFunction, shape: tuple[int, ...]) -> None:
        """Start with mean 0 and variance 1."""
        super().__init__()
        known = get_args(NormalizeFunction)
        if normalize_function not in known:
            raise UserError(
                f"normalize_function {normalize_function!r} is none of {', '.join(known)}"
            )
        self.normalize_function = normalize_function
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))

    @classmethod
    def instantiate(
        cls,
        normalizer_type: NormalizerType | None,
        normalize_function: NormalizeFunction,
        shape: tuple[int, ...],
        momentum: float | None = None,
    ) -> Normalizer:
        """Make a normaliser by its name in a checkpoint's configuration.

        Raises:
            UserError: an unknown name, or no sensible momentum for the moving average.
        """
        if normalizer_type is None:
            return IdentityNormalizer(normalize_function, shape)
        if normalizer_type == "RunningMeanStd":
            return RunningMeanStd(normalize_function, shape)
        if normalizer_type == "ExponentialMovingAverage":
            return ExponentialMovingAverage(normalize_function, shape, momentum)
        known = ", ".join(get_args(NormalizerType))
        raise UserError(f"normalizer_type {normalizer_type!r} is none of {known}, None")

    @abc.abstractmethod
    def update(self, data: torch.Tensor) -> None:
        """Take in scores, size = (N, D)."""

    def normalize(self, data: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
        """Normalise scores, size = (..., D), by the statistics as they are."""
        if self.normalize_function in ("affine", "translate"):
            data = data - self.mean
        if self.normalize_function in ("affine", "scale"):
            data = data / (self.var.sqrt() + epsilon)
        return data

    def forward(self, data: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
        """Take in scores when training, then normalise them."""
        if self.training:
            self.update(data)
        return self.normalize(data, epsilon)

    def set_mean_var(
        self,
        mean: torch.Tensor | Sequence[float] | None,
        var: torch.Tensor | Sequence[float] | None,
    ) -> None:
        """Set the statistics; None keeps what is there.

        Raises:
            UserError: the wrong number of values.
        """
        for name, value in (("mean", mean), ("var", var)):
            if value is None:
                continue
            buffer = getattr(self, name)
            value = torch.as_tensor(value, dtype=buffer.dtype, device=buffer.device)
            if value.shape != buffer.shape:
                raise UserError(
                    f"the normalizer's {name} has shape {tuple(value.shape)}, "
                    f"{tuple(buffer.shape)} is right"
                )
            buffer.copy_(value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow the model to its device, not to its type."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(buffer).device)
        return self


class RunningMeanStd(Normalizer):
    """Mean and variance of every row seen so far (Chan's parallel algorithm)."""

    @torch.no_grad()
    def update(self, data: torch.Tensor) -> None:
        """Take in scores, size = (N, D)."""
        data = data.to(self.mean.dtype)
        rows, seen = data.size(0), self.count
        total = seen + rows
        delta = data.mean(dim=0) - self.mean
        spread = self.var * seen + data.var(dim=0, unbiased=False) * rows
        spread = spread + delta.square() * (seen * rows / total)
        self.mean.add_(delta * rows / total)
        self.var.copy_(spread / total)
        self.count.add_(rows)


class ExponentialMovingAverage(Normalizer):
    """momentum · old + (1 - momentum) · batch, for mean and variance; momentum is 0.9 by default.

    Raises:
        UserError: a momentum outside [0, 1).
    """

    def __init__(
        self,
        normalize_function: NormalizeFunction,
        shape: tuple[int, ...],
        momentum: float | None = None,
    ) -> None:
        """Start with mean 0 and variance 1."""
        super().__init__(normalize_function, shape)
        self.momentum = 0.9 if momentum is None else momentum
        if not 0 <= self.momentum < 1:
            raise UserError(f"the normalizer's momentum {momentum} is not in [0, 1)")

    @torch.no_grad()
    def update(self, data: torch.Tensor) -> None:
        """Take in scores, size = (N, D)."""
        data = data.to(self.mean.dtype)
        fresh = 1 - self.momentum
        self.mean.lerp_(data.mean(dim=0), fresh)
        self.var.lerp_(data.var(dim=0, unbiased=False), fresh)
        self.count.add_(data.size(0))


class IdentityNormalizer(Normalizer):
    """Statistics that never change: 0 and 1, or what a checkpoint says."""

    def update(self, data: torch.Tensor) -> None:
        """Take nothing in."""
