"""What tells a base model from another one of the same shapes: checksums of a few tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterError

ROWS = 64  # of a tensor, from its first on; a tokenizer's new tokens come after them
# An attribute of a weight to which an update was added: the checksum of that. Its own last bits
# depend on the machine that has added it.
UPDATE = "update_checksum"
FULL = (torch.float32, torch.float64, torch.bfloat16)  # float16 loses other bits than bfloat16


def fingerprint(model: nn.Module, layers: Sequence[str]) -> dict[str, str]:
    """Name to checksum of the input embeddings and of the first and the last of adapted layers.

    Empty where the weights are not at hand: quantised, without storage, or sharded.
    """
    wanted: list[nn.Module | None] = [model.get_submodule(x) for x in (layers[0], layers[-1])]
    with suppress(NotImplementedError):  # a model that has none
        wanted.append(getattr(model, "get_input_embeddings", lambda: None)())
    weights = {id(getattr(module, "weight", None)) for module in wanted}
    found = {name: p for name, p in model.named_parameters() if id(p) in weights}
    sums = {name: checksum(tensor) for name, tensor in found.items()}
    return {name: value for name, value in sums.items() if value is not None}


def checksum(tensor: torch.Tensor) -> str | None:
    """A hash of the first ``ROWS`` rows, rounded to bfloat16; before it the kind of the hash.

    So a checkpoint has one checksum whether it is loaded in float32, in bfloat16 or as it was
    saved. Two of different kinds cannot be compared: weights in float16 have one of their own, and
    so has a weight to which an update was added as it was loaded, the update's.
    """
    if hasattr(tensor, UPDATE):
        return f"update:{getattr(tensor, UPDATE)}"
    tensor, half = tensor.detach(), tensor.dtype == torch.float16
    plain = type(tensor) is torch.Tensor  # others are quantised, sharded or without numbers
    if not plain or tensor.is_meta or tensor.numel() == 0 or not (half or tensor.dtype in FULL):
        return None
    rows = tensor[:ROWS].to("cpu", torch.bfloat16).contiguous()
    digest = hashlib.sha256(f"{tuple(rows.shape)}".encode())
    digest.update(rows.view(torch.int16).numpy().tobytes())
    return f"{'float16' if half else 'bfloat16'}:{digest.hexdigest()[:16]}"


def differing(saved: Mapping[str, str] | None, now: Mapping[str, str | None] | None) -> str | None:
    """The first tensor whose checksums, of one kind, differ; one that a side lacks does not."""
    for name, value in (saved or {}).items():
        other = (now or {}).get(name) or ""
        if value != other and value.partition(":")[0] == other.partition(":")[0]:
            return name
    return None


def check_unchanged(
    saved: Mapping[str, Mapping[str, str] | None], now: Mapping[str, Mapping[str, str] | None]
) -> None:
    """Refuse to resume a run with other base models, by role, than those that it began with."""
    for role, sums in saved.items():
        if name := differing(sums, now.get(role)):
            raise AdapterError(
                f"the {role}'s base model is not the one that the run began with: {name} "
                "differs; a run resumes with its own"
            )


def check_base(
    tensors: Mapping[str, torch.Tensor], saved: Mapping[str, str] | None, source: str
) -> None:
    """Refuse a model that is not the base that the adapter in the folder ``source`` was trained on.

    ``tensors`` are the model's weights by name, at least those of the ``saved`` fingerprint; older
    adapters have none, and fit whatever has their shapes.
    """
    now = {name: checksum(tensors[name]) for name in saved or {} if name in tensors}
    if name := differing(saved, now):
        raise AdapterError(
            f"{source}: the adapter was trained on another base model of this shape: {name} "
            "differs; give the one that it was trained on with --base_model"
        )
