"""A saved adapter as products of two thin matrices, ΔW = B A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.adapter import AdapterConfig
from safe_rlhf_panacea.adapter.fingerprint import check_base
from safe_rlhf_panacea.adapter.io import read_config, read_tensors
from safe_rlhf_panacea.adapter.model import check_fit
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.models.files import read_tensors as read_base_tensors
from safe_rlhf_panacea.models.loading import resolve_model

SHARED = "shared"  # the part that λ does not touch
FACTORS = ("lora_U", "lora_V", "lora_sigma")


@dataclass(frozen=True)
class LowRank:
    """One layer's update in float32: ``a``, size = (r, in), and ``b``, size = (out, r)."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True)
class SavedAdapter:
    """A trained adapter as it lies on disk; the base model is not needed."""

    folder: Path
    config: AdapterConfig
    tensors: dict[str, torch.Tensor]  # U, V, σ and s by qualified name

    @classmethod
    def read(cls, folder: str | Path) -> SavedAdapter:
        """Read a trained adapter's folder; no objective may be named like the shared part."""
        adapter = cls(Path(folder), read_config(folder), read_tensors(folder))
        if SHARED in adapter.config.objectives:
            raise UserError(f"{folder}: an objective named {SHARED!r} cannot be exported")
        for name in (f"{module}.{key}" for module in adapter.modules for key in FACTORS):
            if name not in adapter.tensors:
                raise UserError(f"{folder}: tensor {name} is missing")
        return adapter

    @property
    def modules(self) -> list[str]:
        """Qualified names of the adapted layers."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.tensors))

    def check_base(self, base: str | None) -> None:
        """An ``AdapterError`` if a base model's folder is not what the adapter was trained on.

        A name on the hub is not looked at, nor is an adapter: most formats need nothing of the
        base, and who loads it compares.
        """
        saved = self.config.base_fingerprint
        if saved and base and Path(base).is_dir() and find_adapter(base) is None:
            tensors = read_base_tensors(resolve_model(base), tuple(saved))
            check_base(tensors, saved, str(self.folder))

    def check_shapes(self, config: Any, *, trust_remote_code: bool = False) -> None:
        """An ``AdapterError`` if a tensor fits no model made from the base's configuration."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            # Loading a model gives every token an embedding, and so a row of the head.
            output = model.get_output_embeddings()
            head = next((name for name, module in model.named_modules() if module is output), "")
            rows = self.tensors.get(f"{head}.lora_U", torch.empty(0)).size(0)
            if rows > config.get_text_config().vocab_size:
                model.resize_token_embeddings(rows, mean_resizing=False)
        check_fit(model, self.config, self.tensors, str(self.folder))


def check_product(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse what overflows though the adapter and its base are finite, naming the first."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{source}: {name} is not finite in {kind}: the product of the adapter's factors "
                "overflows, and cannot be exported"
            )


def _part(
    adapter: SavedAdapter, columns: slice, weights: torch.Tensor | float = 1.0
) -> dict[str, LowRank]:
    """The update of some of the k + m·r singular values, each of them weighted, by layer."""
    config, part = adapter.config, {}
    fixed = torch.tensor([config.fixed_scaling or 0.0])
    for module in adapter.modules:
        u, v, sigma = (adapter.tensors[f"{module}.{key}"].float() for key in FACTORS)
        s = adapter.tensors.get(f"{module}.lora_s", fixed).float()
        each = s.expand(config.pref_dim).repeat_interleave(config.pref_rank)
        singular = torch.cat([sigma, each]) * weights  # size = (k + m·r,)
        b = (config.factor * u)[:, columns] * singular[columns]
        update = LowRank(v[:, columns].t().contiguous(), b.contiguous())
        pair = {f"{module}.lora_A": update.a, f"{module}.lora_B": update.b}
        check_product(pair, str(adapter.folder))
        part[module] = update
    return part


def shared_part(adapter: SavedAdapter) -> dict[str, LowRank]:
    """What holds at every λ, by the layer's name: the first k singular values."""
    return _part(adapter, slice(adapter.config.lora_dim))


def objective_part(adapter: SavedAdapter, index: int) -> dict[str, LowRank]:
    """What λ_i multiplies, by the layer's name: r singular values in each, at λ_i = 1."""
    rank = adapter.config.pref_rank
    start = adapter.config.lora_dim + index * rank
    return _part(adapter, slice(start, start + rank))


def at_preference(adapter: SavedAdapter, preference: torch.Tensor) -> dict[str, LowRank]:
    """The whole update at one λ, size = (m,), by the layer's name, of rank k + m·r each."""
    config = adapter.config
    of_objectives = preference.float().repeat_interleave(config.pref_rank)
    weights = torch.cat([torch.ones(config.lora_dim), of_objectives])
    return _part(adapter, slice(None), weights)
