"""How fast the two parts of an adapter move, and how sure their gradients are of where to.

A front opens only where the preference part, which λ scales, learns. Where it does not, its norm
stays behind that of the part that all λ share, or its gradients are noise alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.distributed import all_reduce_sum

DECAY = 0.9  # of the averages over steps, as Adam's first moment has it
NORMS_EVERY = 10  # updates
PARTS = {"shared": "lora_sigma", "preference": "lora_s"}


def signal_to_noise(mean: Tensor, square: Tensor, count: int) -> Tensor:
    """|E g| / √(Σ Var g) of a gradient, from its moving averages over ``count`` steps.

    With weights w_t of the steps, E ‖mean‖² = ‖E g‖² + Σ w_t² · Σ Var g; both are solved for.
    ``mean`` and ``square`` are moving averages of g and g² from 0, not corrected, size = (n,);
    ``count`` is at least 2. The result is 0 where the average is no longer than noise makes it.
    """
    power = DECAY**count
    mean, square = mean.double() / (1 - power), square.double() / (1 - power)
    weights = (1 - DECAY) * (1 + power) / ((1 + DECAY) * (1 - power))  # Σ w_t²
    length, total = mean.square().sum(), square.sum()
    signal = ((length - weights * total) / (1 - weights)).clamp(min=0)
    noise = total - signal
    return torch.where(noise > 0, signal / noise, 0.0).sqrt()


@torch.no_grad()
def part_norms(adapter: PanaceaAdapter) -> dict[str, Tensor]:
    """Part to its ‖ΔW‖ over all layers, Frobenius, size = (); at λ_i = 1 for all i."""
    config = adapter.config
    ends = {"shared": (0, config.lora_dim), "preference": (config.lora_dim, config.rank)}
    squares: dict[str, list[Tensor]] = {part: [] for part in ends}
    first, *_ = adapter.layers.values()
    ones = torch.ones(config.pref_dim, device=first.lora_sigma.device)
    for layer in adapter.layers.values():
        u, v = layer.lora_U.float() * layer.singular_values(ones), layer.lora_V.float()
        for part, (start, stop) in ends.items():
            left, right = u[:, start:stop], v[:, start:stop]
            # ‖L Rᵀ‖² = Σ (LᵀL) ∘ (RᵀR), without the product of its own size
            squares[part].append(((left.t() @ left) * (right.t() @ right)).sum())
    return {part: torch.stack(found).sum().sqrt() for part, found in squares.items()}


class AdapterProgress:
    """Follows the gradients of σ and s of an adapter that depends on λ; ``count`` is updates."""

    def __init__(self, adapter: PanaceaAdapter) -> None:
        self.adapter = adapter
        self.count = 0
        self._columns: dict[str, slice] = {}  # of each part among the n numbers of both
        self._size = 0  # n
        self._gradient: Tensor | None = None  # size = (n,): the update's so far
        self._averages: Tensor | None = None  # size = (2, n): of g and of g²
        for part, name in PARTS.items():
            start = self._size
            for layer in adapter.layers.values():
                parameter = getattr(layer, name)
                if parameter is not None and parameter.requires_grad:
                    parameter.register_hook(functools.partial(self._add, self._size))
                    self._size += parameter.numel()
            if self._size > start:
                self._columns[part] = slice(start, self._size)

    def _add(self, start: int, gradient: Tensor) -> None:
        """Add what a micro-batch brings to the gradient of its update."""
        if self._gradient is None:
            self._gradient = gradient.new_zeros(self._size, dtype=torch.float32)
        self._gradient[start : start + gradient.numel()] += gradient.detach().float()

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """After an update: what to log of it; empty where there is nothing to tell yet.

        All processes call it: the gradient of an update is the sum of theirs.
        """
        if self._gradient is None:
            return {}
        self.count += 1
        gradient, self._gradient = all_reduce_sum(self._gradient), None
        new = torch.stack([gradient, gradient.square()])
        before = 0 if self._averages is None else self._averages * DECAY
        self._averages = before + new * (1 - DECAY)
        found = {}
        if self.count > 1:
            for part, columns in self._columns.items():
                mean, square = self._averages[:, columns]
                ratio = signal_to_noise(mean, square, self.count)
                found[f"train/signal_to_noise_{part}"] = ratio
        sharded = any(hasattr(p, "ds_id") for p in self.adapter.parameters())  # ZeRO 3
        if self.count % NORMS_EVERY == 0 and not sharded:
            norms = part_norms(self.adapter)
            found |= {f"train/norm_{part}": norm for part, norm in norms.items()}
        if not found:
            return {}
        values = torch.stack([value.double() for value in found.values()])
        return dict(zip(found, values.tolist(), strict=True))  # the one wait for the device

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same numbers."""
        averages = None if self._averages is None else self._averages.cpu()
        return {"count": self.count, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = next(iter(self.adapter.layers.values())).lora_sigma.device
        self.count = state["count"]
        averages = state["averages"]
        self._averages = None if averages is None else averages.to(device)
