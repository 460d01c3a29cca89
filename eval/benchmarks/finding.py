"""What there is to measure with."""

from __future__ import annotations

import importlib.util


def installed(*names: str) -> bool:
    """Whether all these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def accelerator() -> bool:
    """Whether a GPU is there."""
    import torch

    return torch.cuda.is_available()


def missing_peers() -> str:
    """A line for each peer that is left out."""
    peers = {"PEFT": ("peft",), "TRL with PEFT": ("trl", "peft"), "Safe-RLHF": ("safe_rlhf",)}
    absent = [name for name, packages in peers.items() if not installed(*packages)]
    return "".join(f"{name}: not installed, left out.\n" for name in absent)
