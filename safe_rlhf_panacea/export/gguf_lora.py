"""Low-rank updates as GGUF LoRA files for llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.low_rank import LowRank

# transformers' model type: llama.cpp's name of the architecture.
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
# Architectures whose rotary embedding llama.cpp applies to neighbouring pairs of a head's rows,
# where transformers pairs each row of the first half with one of the second.
INTERLEAVED = ("llama",)


def architecture_of(config: Any) -> str:
    """llama.cpp's name of a model's architecture.

    Raises:
        UserError: none that this export knows.
    """
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"GGUF export knows no model of the type {kind!r} (known: {known})")
    return ARCHITECTURES[kind]


def interleave(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """A projection's rows in llama.cpp's order: halves of every head to neighbouring pairs.

    Args:
        rows: size = (heads · head_dim, r).
        heads: of queries, or of keys for the key projection.
    """
    halves = rows.reshape(heads, 2, rows.size(0) // heads // 2, rows.size(1))
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, part: Mapping[str, LowRank], config: Any) -> None:
    """Write one LoRA with alpha = rank, so that llama.cpp's scale is λ_i itself.

    Args:
        path: the new file.
        part: qualified module name, as in transformers, to update.
        config: the base model's configuration.

    Raises:
        UserError: an architecture or a layer that llama.cpp has no name for.
    """
    gguf = _import_gguf()
    name = architecture_of(config)
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    }
    writer = gguf.GGUFWriter(path, name)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(next(iter(part.values())).a.size(0)))
    for module, update in part.items():
        tensor = names.get_name(module)
        if tensor is None:
            raise UserError(f"llama.cpp has no name for the layer {module} of a {name} model")
        b = update.b
        if name in INTERLEAVED and (count := heads.get(tensor.rpartition(".")[2])):
            b = interleave(b, count)
        writer.add_tensor(f"{tensor}.weight.lora_a", update.a.numpy())
        writer.add_tensor(f"{tensor}.weight.lora_b", b.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _import_gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF export needs the package gguf: pip install gguf") from None
    return gguf
