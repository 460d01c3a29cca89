"""Adapters on disk (``adapter_config.json``, ``adapter_model.safetensors``), and soups of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterConfig, AdapterError
from safe_rlhf_panacea.adapter.fingerprint import check_base
from safe_rlhf_panacea.adapter.layer import SvdLoraLinear
from safe_rlhf_panacea.adapter.model import PanaceaAdapter, check_fit, inject_adapter
from safe_rlhf_panacea.adapter.state import PreferenceState
from safe_rlhf_panacea.io import atomic_path, atomic_write_json, read_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_TYPE = "panacea-svd-lora"
# Raised when older code would misread what is saved; what does not name one is of format 1.
FORMAT = 1


def save_adapter(adapter: PanaceaAdapter, folder: str | Path) -> None:
    """Write both files, each whole or not at all.

    Not of a soup, whose λ no configuration describes and whose ingredients are on disk.
    """
    from safetensors.torch import save_file

    if adapter.pref_dim != adapter.config.pref_dim:
        raise AdapterError("a soup cannot be saved as one adapter: keep its ingredients instead")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"adapter_type": ADAPTER_TYPE, "format": FORMAT, **adapter.config.to_dict()}
    config["base_model"] = _recorded(adapter.config.base_model, folder)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(adapter.state_dict(), temporary, metadata={"format": "pt"})
    atomic_write_json(folder / CONFIG_NAME, config)


def read_config(folder: str | Path) -> AdapterConfig:
    """The configuration of a saved adapter.

    A ``UserError`` names a file that is missing, not JSON, not ours, or of a newer format.
    """
    folder = Path(folder)
    path = folder / CONFIG_NAME
    if not path.exists():
        raise AdapterError(f"{path} is missing: {folder} holds no adapter")
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("adapter_type", None) != ADAPTER_TYPE:
        raise AdapterError(f"{path} does not describe a {ADAPTER_TYPE} adapter")
    if (format_ := values.pop("format", FORMAT)) not in list(range(1, FORMAT + 1)):
        raise AdapterError(
            f"{path}: the adapter is of format {format_!r}, this version of the package reads "
            f"up to {FORMAT}: install a newer one"
        )
    try:
        config = AdapterConfig.from_dict(values)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from None
    # The inverse of `_recorded`; older records are relative to the current folder.
    recorded = config.base_model
    if recorded is None or not recorded.startswith("."):
        return config
    places = [os.path.abspath(one / recorded) for one in (folder, Path(os.path.realpath(folder)))]
    there = [place for place in (*places, recorded) if os.path.isdir(split_base(place)[0])]
    return replace(config, base_model=(there or places)[0])


def _recorded(base: str | None, folder: Path) -> str | None:
    """A base model as the adapter in ``folder`` names it: what lies beside, relative to it.

    Beside is what some folder holds together with the adapter, other than the root or one that
    holds the user's home: both can then be moved or copied together.
    """
    text, preference = split_base(base or "")
    rest = "" if preference is None else f"@{preference}"
    if base is None or not os.path.isdir(os.path.expanduser(text)):
        return base  # a name on the hub
    places = os.path.expanduser(text), os.path.expanduser("~"), folder
    place, home, folder = (Path(os.path.realpath(one)) for one in places)
    common = next((one for one in place.parents if one in folder.parents), None)
    if common in (None, home, *home.parents):
        return f"{place}{rest}"
    text = Path(os.path.relpath(place, folder)).as_posix()
    return f"{text}{rest}" if text.startswith(".") else f"./{text}{rest}"


def split_base(base: str) -> tuple[str, str | None]:
    """A folder, and the λ that stands behind an ``@``, where one does: an adapter as base model."""
    path, at, preference = base.rpartition("@")
    whole = not at or os.path.exists(os.path.expanduser(base))
    if whole or not os.path.isdir(os.path.expanduser(path)):
        return base, None
    return path, preference


def read_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter.

    An ``AdapterError`` where the file is missing or truncated, or a number in it is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS_NAME
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise AdapterError(f"{path} is missing: {folder} holds no adapter") from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is truncated or not safetensors: {error}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(f"{path}: tensor {name} is not finite: its training has diverged")
    return tensors


def load_adapter(model: nn.Module, folder: str | Path) -> PanaceaAdapter:
    """Inject the adapter that ``folder`` holds.

    A ``UserError``, and a model as it was, where files are missing or damaged, or the adapter
    belongs to another model: one of other shapes, or one whose weights differ.
    """
    config, tensors = read_config(folder), read_tensors(folder)
    source = str(Path(folder) / WEIGHTS_NAME)
    check_fit(model, config, tensors, source)
    check_base(dict(model.named_parameters()), config.base_fingerprint, str(folder))
    adapter = inject_adapter(model, config)
    adapter.load_state_dict(tensors, source=source)
    return adapter


class SoupLinear(SvdLoraLinear):
    """W(λ) = W0 + Σ_i λ_i ΔW_i of Rewarded Soups, written as one SVD-LoRA.

    Weights are interpolated, not factors: the ingredients' factors stand side by side, and λ_i
    multiplies the singular values of the i-th.
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

    A ``UserError``, and a model as it was, where the ingredients in ``folders`` differ in
    shape, have a preference part, were trained on another base, are missing or damaged.
    """
    if not folders:
        raise AdapterError("a soup needs at least one ingredient")
    configs = [read_config(folder) for folder in folders]
    if len(folders) != len(objectives):
        raise AdapterError(f"{len(folders)} ingredients for {len(objectives)} objectives")
    first = configs[0]
    for folder, config in zip(folders, configs, strict=True):
        if config.pref_dim != 0:
            raise AdapterError(f"{folder} is conditioned on λ: a soup is made of plain adapters")
        if config.lora_dim != first.lora_dim or config.factor != first.factor:
            raise AdapterError(f"{folder} differs from {folders[0]} in lora_dim or lora_scaling")
    parts = [read_tensors(folder) for folder in folders]
    tensors = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [part[name] for part in parts if name in part]
        if len(found) != len(parts):
            raise AdapterError(f"tensor {name} is not in every ingredient of the soup")
        if len({tensor.shape for tensor in found}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
            raise AdapterError(f"tensor {name} differs in shape between ingredients: {shapes}")
        tensors[name] = torch.cat(found, dim=-1)  # factors, or σ, side by side
    rank = first.lora_dim * len(folders)
    wide = replace(first, lora_dim=rank, lora_scaling=first.factor * rank, objectives=())
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
