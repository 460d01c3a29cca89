"""The SVD-LoRA linear layer with λ among its singular values (Eq. 5 and 9)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterConfig, AdapterError
from safe_rlhf_panacea.adapter.product import LowRankProduct, frozen_linear, low_rank_product
from safe_rlhf_panacea.adapter.recomputing import check_repetition, witnessed
from safe_rlhf_panacea.adapter.state import PreferenceState


def linear_shape(base: nn.Module) -> tuple[int, int]:
    """(out_features, in_features) of an ``nn.Linear`` or of transformers' ``Conv1D``."""
    first, second = base.get_parameter("weight").shape
    return (first, second) if isinstance(base, nn.Linear) else (second, first)


def factor_shapes(
    out_features: int, in_features: int, config: AdapterConfig
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a layer adds, by name."""
    shapes: dict[str, tuple[int, ...]] = {
        "lora_U": (out_features, config.rank),
        "lora_V": (in_features, config.rank),
        "lora_sigma": (config.lora_dim,),
    }
    if config.pref_dim > 0 and config.fixed_scaling is None:
        shapes["lora_s"] = (config.pref_dim if config.scaling_per_objective else 1,)
    return shapes


class SvdLoraLinear(nn.Module):
    """A frozen linear layer plus a low-rank update whose last m singular values are s·λ.

        W(λ) = W0 + factor · U · diag(σ_1..σ_k, s·λ_1..s·λ_m) · Vᵀ

    With ``pref_rank`` r, each s·λ_i stands r times in a row. The base layer's ``weight`` and
    ``bias`` keep their names, so a base checkpoint still fits.

    Attributes:
        lora_U: size = (out_features, k + m·r).
        lora_V: size = (in_features, k + m·r).
        lora_sigma: size = (k,).
        lora_s: size = (1,), or (m,) with one scale per objective; absent if fixed or m = 0.
    """

    weight: nn.Parameter
    lora_U: nn.Parameter
    lora_V: nn.Parameter
    lora_sigma: nn.Parameter
    lora_s: nn.Parameter | None

    def __init__(self, base: nn.Module, config: AdapterConfig, state: PreferenceState) -> None:
        """Take over the parameters of ``base``, an ``nn.Linear`` or transformers' ``Conv1D``."""
        super().__init__()
        self.weight = base.get_parameter("weight")
        self.bias: nn.Parameter | None = getattr(base, "bias", None)
        # Conv1D keeps its weight as (in, out); the update is transposed with it.
        self.transposed = not isinstance(base, nn.Linear)
        self.out_features, self.in_features = linear_shape(base)
        self.config = config
        self.state = state
        self.register_parameter("lora_s", None)
        for name, shape in factor_shapes(self.out_features, self.in_features, config).items():
            empty = torch.empty(*shape, device=self.weight.device, dtype=self.weight.dtype)
            setattr(self, name, nn.Parameter(empty))
        # W0 while merged, in a tuple: torch would take it for a parameter of the layer.
        self._base_weight: tuple[nn.Parameter] | None = None
        self._cache: tuple[tuple[object, ...], torch.Tensor] | None = None
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has parameters of its own, whose versions say nothing about what is remembered."""
        return {**self.__dict__, "_cache": None}

    def reset_parameters(self) -> None:
        """U, V ~ N(0, init_std²), σ and s at ``init_singular``."""
        nn.init.normal_(self.lora_U, std=self.config.init_std)
        nn.init.normal_(self.lora_V, std=self.config.init_std)
        nn.init.constant_(self.lora_sigma, self.config.init_singular)
        if self.lora_s is not None:
            nn.init.constant_(self.lora_s, self.config.init_singular)

    def singular_values(self, preference: torch.Tensor) -> torch.Tensor:
        """factor · (σ, s·λ) in float32; size = (..., k + m·r) for λ of size (..., m)."""
        sigma = self.lora_sigma.float()
        s = self.config.fixed_scaling if self.lora_s is None else self.lora_s.float()
        if self.config.pref_dim == 0 or s is None:
            return self.config.factor * sigma
        scaled = preference.to(sigma.device) * s  # size = (..., m)
        if self.config.pref_rank > 1:
            scaled = scaled.repeat_interleave(self.config.pref_rank, dim=-1)
        return self.config.factor * torch.cat([sigma.expand(*scaled.shape[:-1], -1), scaled], -1)

    def _diagonal(self, x: torch.Tensor) -> torch.Tensor:
        """The singular values, shaped and cast to multiply ``x @ V``."""
        state = self.state
        if not state.reuses or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._make_diagonal(x)
        # `expands` too, or rows that only `generate` may repeat would pass after it.
        rows = (x.dim(), x.size(0), x.dtype, x.device)
        key: tuple[object, ...] = (state.version, state.expands, state.shape, *rows)
        key += tuple(p._version for p in (self.lora_sigma, self.lora_s) if p is not None)
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self._make_diagonal(x))
        return self._cache[1]

    def _make_diagonal(self, x: torch.Tensor) -> torch.Tensor:
        diagonal = self.singular_values(self.state.value)
        if diagonal.dim() == 2:
            rows = x.size(0) if x.dim() > 1 else 1
            copies = self.state.copies(x)
            if copies > 1:
                diagonal = diagonal.repeat_interleave(copies, dim=0)
            # size = (B, 1, ..., 1, k + m·r)
            diagonal = diagonal.view(rows, *([1] * (x.dim() - 2)), diagonal.size(-1))
        return diagonal.to(x.dtype)

    def base_forward(self, x: torch.Tensor) -> torch.Tensor:
        """W x + b with the weight as it is: W0, or W(λ) while merged."""
        weight = self.weight.t() if self.transposed else self.weight
        if torch.is_grad_enabled():
            return F.linear(x, weight, self.bias)
        # As with the adapter on: at σ = s = 0 both give the same bits.
        tokens = x.reshape(-1, self.in_features)
        return frozen_linear(tokens, weight, self.bias).view(*x.shape[:-1], self.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply W(λ), size = (B, ..., in_features) to (B, ..., out_features).

        An ``AdapterError`` where rows and λ per sample do not match, or λ has changed since the
        pass that gradient checkpointing repeats here.
        """
        merged, eager = self._base_weight is not None, not torch.compiler.is_compiling()
        if eager:
            check_repetition(self.state, merged=merged)
        if merged or not self.state.enabled:
            return self.base_forward(x)
        updated = self._updated(x)
        return witnessed(updated, self.state) if eager else updated

    def _updated(self, x: torch.Tensor) -> torch.Tensor:
        """W(λ) x + b, size = (B, ..., out_features)."""
        diagonal = self._diagonal(x)
        if self._is_special(x):
            return self.base_forward(x) + ((x @ self.lora_V) * diagonal) @ self.lora_U.t()
        tokens = x.reshape(-1, self.in_features)  # size = (N, in_features)
        flat = diagonal.reshape(-1, diagonal.size(-1)) if diagonal.dim() > 1 else diagonal
        factors = (self.lora_V, self.lora_U, flat)
        inputs = (tokens, self.weight, self.bias, *factors, self.transposed)
        if torch.is_grad_enabled():
            updated = LowRankProduct.apply(*inputs)
        else:
            updated, _ = low_rank_product(*inputs)
        return updated.view(*x.shape[:-1], self.out_features)

    def _is_special(self, x: torch.Tensor) -> bool:
        """Whether the product must be left to torch: compiled, in mixed precision, or W0 trains."""
        trained = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        mixed = torch.is_autocast_enabled(x.device.type)
        return torch.compiler.is_compiling() or mixed or (trained and torch.is_grad_enabled())

    def get_delta_weight(self, preference: torch.Tensor) -> torch.Tensor:
        """W(λ) - W0 in float32, size = (out_features, in_features), for one λ, size = (m,)."""
        diagonal = self.singular_values(preference.float())
        return (self.lora_U.float() * diagonal) @ self.lora_V.float().t()

    @torch.no_grad()
    def merge(self, preference: torch.Tensor) -> None:
        """Put W(λ), computed in float32 and rounded once, in the place of W0.

        The layer has a parameter of its own until ``unmerge``: what shares W0 with it, such as the
        embeddings or a critic on the same backbone, keeps W0. Twice is an ``AdapterError``.
        """
        if self._base_weight is not None:
            raise AdapterError("the adapter is already merged: unmerge it first")
        delta = self.get_delta_weight(preference)
        self._base_weight = (self.weight,)
        merged = self.weight.float() + (delta.t() if self.transposed else delta)
        self.weight = nn.Parameter(merged.to(self.weight.dtype), requires_grad=False)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give W0 back, bit for bit."""
        if self._base_weight is not None:
            (self.weight,) = self._base_weight
            self._base_weight = None

    def extra_repr(self) -> str:
        """Shapes, for printing a model."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"lora_dim={self.config.lora_dim}, pref_dim={self.config.pref_dim}"
        )
