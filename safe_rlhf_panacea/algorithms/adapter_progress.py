"""How fast the two parts of an adapter move, and how sure their gradients are of where to.

A front opens only where the preference part, which λ scales, learns. A user sees here when it does
not: its norm stays behind that of the part that all λ share, or its gradients are noise alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter

DECAY = 0.9  # of the averages over steps, as Adam's first moment has it
NORMS_EVERY = 10  # updates
PARTS = {"shared": "lora_sigma", "preference": "lora_s"}


def signal_to_noise(mean: torch.Tensor, square: torch.Tensor, count: int) -> float:
    """|E g| / √(Σ Var g) of a gradient, from its moving averages over ``count`` steps.

    With weights w_t of the steps, E ‖mean‖² = ‖E g‖² + Σ w_t² · Σ Var g; both are solved for.

    Args:
        mean: moving average of g from 0, not corrected, size = (n,).
        square: of g², likewise.
        count: of steps, at least 2.

    Returns:
        0 where the average is no longer than noise alone makes it.
    """
    power = DECAY**count
    mean, square = mean.double() / (1 - power), square.double() / (1 - power)
    weights = (1 - DECAY) * (1 + power) / ((1 + DECAY) * (1 - power))  # Σ w_t²
    length, total = mean.square().sum().item(), square.sum().item()
    signal = max(0.0, (length - weights * total) / (1 - weights))
    noise = total - signal
    return (signal / noise) ** 0.5 if noise > 0 else 0.0


@torch.no_grad()
def part_norms(adapter: PanaceaAdapter) -> dict[str, float]:
    """‖ΔW‖ of each part over all layers, Frobenius; of the preference part at λ_i = 1 for all i."""
    config = adapter.config
    ends = {"shared": (0, config.lora_dim), "preference": (config.lora_dim, config.rank)}
    squares = dict.fromkeys(ends, 0.0)
    ones = torch.ones(config.pref_dim)
    for layer in adapter.layers.values():
        singular = layer.singular_values(ones.to(layer.lora_sigma.device))
        u, v = layer.lora_U.float() * singular, layer.lora_V.float()
        for part, (start, stop) in ends.items():
            left, right = u[:, start:stop], v[:, start:stop]
            # ‖L Rᵀ‖² = Σ (LᵀL) ∘ (RᵀR), without the product of its own size
            squares[part] += ((left.t() @ left) * (right.t() @ right)).sum().item()
    return {part: square**0.5 for part, square in squares.items()}


class AdapterProgress:
    """Follows the gradients of σ and s of an adapter that depends on λ.

    Attributes:
        count: updates so far.
    """

    def __init__(self, adapter: PanaceaAdapter) -> None:
        """Hook into the backward passes."""
        self.adapter = adapter
        self.count = 0
        self._gradients: dict[str, dict[int, torch.Tensor]] = {part: {} for part in PARTS}
        self._averages: dict[str, torch.Tensor] = {}  # size = (2, n): of g and of g²
        for part, name in PARTS.items():
            for number, layer in enumerate(adapter.layers.values()):
                parameter = getattr(layer, name)
                if parameter is not None and parameter.requires_grad:
                    parameter.register_hook(self._adds(part, number))

    def _adds(self, part: str, number: int) -> Any:
        """A hook that sums what the micro-batches of an update bring."""
        gradients = self._gradients[part]

        def add(gradient: torch.Tensor) -> None:
            before = gradients.get(number)
            found = gradient.detach().float()
            gradients[number] = found.clone() if before is None else before + found

        return add

    def metrics(self) -> dict[str, float]:
        """After an update: what to log of it; empty where there is nothing to tell yet."""
        found = {}
        if any(self._gradients.values()):
            self.count += 1
        for part, gradients in self._gradients.items():
            if not gradients:
                continue
            flat = torch.cat([gradients[number] for number in sorted(gradients)])
            gradients.clear()
            new = torch.stack([flat, flat.square()])
            before = self._averages.get(part)
            self._averages[part] = new * (1 - DECAY) + (0 if before is None else before * DECAY)
            if self.count > 1:
                ratio = signal_to_noise(*self._averages[part], self.count)
                found[f"train/signal_to_noise_{part}"] = ratio
        sharded = any(hasattr(p, "ds_id") for p in self.adapter.parameters())  # ZeRO 3
        if self.count % NORMS_EVERY == 0 and self.count and not sharded:
            norms = part_norms(self.adapter)
            found |= {f"train/norm_{part}": norm for part, norm in norms.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same numbers."""
        return {"count": self.count, "averages": {k: v.cpu() for k, v in self._averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        device = next(iter(self.adapter.layers.values())).lora_sigma.device
        self.count = state["count"]
        self._averages = {part: value.to(device) for part, value in state["averages"].items()}
