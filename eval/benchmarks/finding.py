"""What there is to measure with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform


def installed(*names: str) -> bool:
    """Whether all these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def machine(device: str) -> str:
    """The kind of machine, and the versions that matter, in a line."""
    kind = f"{os.cpu_count()} cores"
    if device != "cpu":
        import torch

        kind = torch.cuda.get_device_name()
    packages = ("torch", "transformers", "deepspeed", "peft", "trl")
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in packages if installed(name)
    ]
    found = [kind, platform.machine(), f"Python {platform.python_version()}", *versions]
    return ", ".join(found)


def accelerator() -> bool:
    """Whether a GPU is there."""
    import torch

    return torch.cuda.is_available()


def missing_peers() -> str:
    """A line for each peer that is left out."""
    peers = {"PEFT": ("peft",), "TRL with PEFT": ("trl", "peft"), "Safe-RLHF": ("safe_rlhf",)}
    absent = [name for name, packages in peers.items() if not installed(*packages)]
    return "".join(f"{name}: not installed, left out.\n" for name in absent)
