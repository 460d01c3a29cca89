"""A tiny model with an adapter whose λ changes what it says."""

from __future__ import annotations

import torch

from safe_rlhf_panacea.respond import PanaceaModel
from tests.export.models import saved


def saved_adapter(folder, kind="llama", **options):
    """The folder of an adapter on a tiny model of ``tests.export.models``."""
    return saved(kind, folder, **options)[1]


def loaded(adapter):
    """The model as a server loads it, in float64."""
    model = PanaceaModel.load(adapter)
    model.model.double()
    return model


def preferences(count):
    """λ that all differ, size = (count, 2)."""
    first = torch.linspace(0, 1, count)
    return torch.stack([first, 1 - first], dim=1)
