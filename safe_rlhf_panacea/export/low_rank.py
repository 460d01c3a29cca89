"""A saved adapter as products of two thin matrices, ΔW = B A."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True)
class LowRank:
    """One layer's update, in float32.

    Attributes:
        a: size = (r, in_features).
        b: size = (out_features, r).
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True)
class SavedAdapter:
    """A trained adapter as it lies on disk; the base model is not needed.

    Attributes:
        folder: where it lies.
        config: its configuration.
        tensors: U, V, σ and s by qualified name.
    """

    folder: Path
    config: AdapterConfig
    tensors: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: str | Path) -> SavedAdapter:
        """Read a trained adapter's folder.

        Raises:
            AdapterError: its files are missing or damaged.
            UserError: a tensor is missing, or an objective is named like the shared part.
        """
        config, tensors = read_config(folder), read_tensors(folder)
        if SHARED in config.objectives:
            raise UserError(f"{folder}: an objective named {SHARED!r} cannot be exported")
        adapter = cls(Path(folder), config, tensors)
        for module in adapter.modules:
            for key in ("lora_U", "lora_V", "lora_sigma"):
                if f"{module}.{key}" not in tensors:
                    raise UserError(f"{folder}: tensor {module}.{key} is missing")
        return adapter

    def check_base(self, base: str | None) -> None:
        """Whether the weights in a base model's folder are those that the adapter was trained on.

        A name on the hub is not looked at, nor is an adapter: most formats need nothing of the
        base, and who loads it compares.

        Raises:
            AdapterError: they are not.
        """
        saved = self.config.base_fingerprint
        if saved and base and Path(base).is_dir() and find_adapter(base) is None:
            tensors = read_base_tensors(resolve_model(base), tuple(saved))
            check_base(tensors, saved, str(self.folder))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the parts that λ weights; none for an adapter that λ does not touch."""
        return self.config.names

    @property
    def modules(self) -> list[str]:
        """Qualified names of the adapted layers."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.tensors))

    def factors(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Per layer: its name, U · factor and V, and the singular values at λ_i = 1.

        Sizes: (out_features, k + m·r), (in_features, k + m·r), (k + m·r,), in float32.
        """
        config = self.config
        for module in self.modules:
            u, v, sigma = (
                self.tensors[f"{module}.{key}"].float()
                for key in ("lora_U", "lora_V", "lora_sigma")
            )
            s = self.tensors.get(f"{module}.lora_s")
            if s is None:
                s = torch.tensor([0.0 if config.fixed_scaling is None else config.fixed_scaling])
            each = s.float().expand(config.pref_dim).repeat_interleave(config.pref_rank)
            singular = torch.cat([sigma, each])
            yield module, config.factor * u, v, singular


def check_product(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse what overflows though the adapter and its base are finite.

    Raises:
        UserError: naming the first tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{source}: {name} is not finite in "
                f"{str(tensor.dtype).removeprefix('torch.')}: the product of the adapter's factors "
                "overflows, and cannot be exported"
            )


def _checked(adapter: SavedAdapter, part: dict[str, LowRank]) -> dict[str, LowRank]:
    for name, update in part.items():
        check_product({f"{name}.lora_A": update.a, f"{name}.lora_B": update.b}, str(adapter.folder))
    return part


def _columns(adapter: SavedAdapter, start: int, stop: int) -> dict[str, LowRank]:
    part = {
        module: LowRank(
            v[:, start:stop].t().contiguous(),
            (u[:, start:stop] * singular[start:stop]).contiguous(),
        )
        for module, u, v, singular in adapter.factors()
    }
    return _checked(adapter, part)


def shared_part(adapter: SavedAdapter) -> dict[str, LowRank]:
    """What holds at every λ: the first k singular values."""
    return _columns(adapter, 0, adapter.config.lora_dim)


def objective_part(adapter: SavedAdapter, index: int) -> dict[str, LowRank]:
    """What λ_i multiplies: r singular values in each layer, at λ_i = 1."""
    rank = adapter.config.pref_rank
    start = adapter.config.lora_dim + index * rank
    return _columns(adapter, start, start + rank)


def at_preference(adapter: SavedAdapter, preference: torch.Tensor) -> dict[str, LowRank]:
    """The whole update at one λ, size = (m,), as one product of rank k + m·r."""
    config = adapter.config
    of_objectives = preference.float().repeat_interleave(config.pref_rank)
    weights = torch.cat([torch.ones(config.lora_dim), of_objectives])
    part = {
        module: LowRank(v.t().contiguous(), (u * (singular * weights)).contiguous())
        for module, u, v, singular in adapter.factors()
    }
    return _checked(adapter, part)


def check_shapes(adapter: SavedAdapter, config: Any, *, trust_remote_code: bool = False) -> None:
    """Hold an adapter against a model made from its base's configuration, without weights.

    Args:
        adapter: as saved.
        config: the base model's configuration.
        trust_remote_code: run code that comes with the base model.

    Raises:
        AdapterError: a tensor is missing, unknown or of another shape.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        # Loading a model gives every token of its tokenizer an embedding, and so a row of the head.
        head = next((n for n, m in model.named_modules() if m is model.get_output_embeddings()), "")
        rows = adapter.tensors.get(f"{head}.lora_U", torch.empty(0)).size(0)
        if rows > config.get_text_config().vocab_size:
            model.resize_token_embeddings(rows, mean_resizing=False)
    check_fit(model, adapter.config, adapter.tensors, str(adapter.folder))
