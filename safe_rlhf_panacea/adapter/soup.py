"""Rewarded Soups as one adapter: weights interpolated exactly, λ per sample included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterError
from safe_rlhf_panacea.adapter.fingerprint import check_base
from safe_rlhf_panacea.adapter.io import read_config, read_tensors
from safe_rlhf_panacea.adapter.layer import SvdLoraLinear
from safe_rlhf_panacea.adapter.model import PanaceaAdapter, check_fit, inject_adapter
from safe_rlhf_panacea.adapter.state import PreferenceState


class SoupLinear(SvdLoraLinear):
    """W(λ) = W0 + Σ_i λ_i ΔW_i, written as one SVD-LoRA: weights are interpolated, not factors.

    The ingredients' factors stand side by side, and λ_i multiplies the singular values of the i-th.
    """

    def singular_values(self, preference: torch.Tensor) -> torch.Tensor:
        """factor · λ_i · σ^i, size = (..., m · r) for λ of size (..., m)."""
        sigma = self.lora_sigma.float()
        each = sigma.numel() // self.state.pref_dim
        weights = preference.to(sigma.device).repeat_interleave(each, dim=-1)
        return self.config.factor * sigma * weights


def load_soup(
    model: nn.Module, folders: Sequence[str | Path], objectives: Sequence[str]
) -> PanaceaAdapter:
    """Inject the soup of single-objective adapters, one per objective in the order of λ.

    An ``AdapterError``, and a model as it was, where the ingredients in ``folders`` differ in
    shape, have a preference part, were trained on another base, are missing or damaged.
    """
    if not folders:
        raise AdapterError("a soup needs at least one ingredient")
    configs = [read_config(folder) for folder in folders]
    if len(folders) != len(objectives):
        raise AdapterError(f"{len(folders)} ingredients for {len(objectives)} objectives")
    for folder, config in zip(folders, configs, strict=True):
        if config.pref_dim != 0:
            raise AdapterError(f"{folder} is conditioned on λ: a soup is made of plain adapters")
        if config.lora_dim != configs[0].lora_dim or config.factor != configs[0].factor:
            raise AdapterError(f"{folder} differs from {folders[0]} in lora_dim or lora_scaling")
    tensors = _side_by_side([read_tensors(folder) for folder in folders])
    rank = configs[0].lora_dim * len(folders)
    wide = dataclasses.replace(
        configs[0], lora_dim=rank, lora_scaling=configs[0].factor * rank, objectives=()
    )
    source = ", ".join(map(str, folders))
    check_fit(model, wide, tensors, source)
    for folder, config in zip(folders, configs, strict=True):
        check_base(dict(model.named_parameters()), config.base_fingerprint, str(folder))
    adapter = inject_adapter(model, wide, PreferenceState(len(folders)), SoupLinear)
    adapter.load_state_dict(tensors, source=source)
    for parameter in adapter.parameters():
        parameter.requires_grad_(False)
    adapter.objectives = tuple(objectives)
    return adapter


def _side_by_side(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        tensors = [part[name] for part in parts if name in part]
        if len(tensors) != len(parts):
            raise AdapterError(f"tensor {name} is not in every ingredient of the soup")
        if len({tensor.shape for tensor in tensors}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise AdapterError(f"tensor {name} differs in shape between ingredients: {shapes}")
        joined[name] = torch.cat(tensors, dim=-1)
    return joined
