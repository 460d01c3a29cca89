"""A tiny model with an adapter whose λ changes what it says."""

from __future__ import annotations

import torch

from safe_rlhf_panacea.respond import PanaceaModel
from tests.export.models import saved

OBJECTIVES = ("helpful", "harmless")


def loaded(folder, **options):
    """The model of ``tests.export.models``, which a server would load, and its adapter's folder."""
    _, adapter = saved("llama", folder, **options)
    return PanaceaModel.load(adapter), adapter


def preferences(count):
    """λ that all differ, size = (count, 2)."""
    first = torch.linspace(0, 1, count)
    return torch.stack([first, 1 - first], dim=1)
