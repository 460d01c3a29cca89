"""Panacea in a training loop of your own, with nothing but torch: fifteen lines of method.

python examples/own_trainer.py

The adapter works in any model with linear layers. Here a small network learns two opposed targets,
and gives every mixture of them afterwards.
"""

from __future__ import annotations

import torch
from torch import nn

from safe_rlhf_panacea import AdapterConfig, PreferenceSampler, aggregate_losses, inject_adapter


def main(steps=400):
    """Train at a new λ each step; then say what each λ gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    names = ("up", "down")
    adapter = inject_adapter(model, AdapterConfig(objectives=names, lora_module_name=""))
    sampler = PreferenceSampler(len(names), seed=0)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    inputs = torch.randn(64, 4)
    for _ in range(steps):
        preference = sampler.sample(1)  # size = (1, m)
        with adapter.at(preference[0]):
            output = model(inputs)  # size = (B, 1)
            losses = (output - torch.tensor([[1.0, -1.0]])).square()  # size = (B, m)
            aggregate_losses(losses, None, preference.expand(64, -1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for preference in ({"up": 1, "down": 0}, {"up": 0.5, "down": 0.5}, {"up": 0, "down": 1}):
        with torch.no_grad(), adapter.at(preference):
            print(preference, f"{model(inputs).mean().item():+.2f}")


if __name__ == "__main__":
    main()
