"""W(λ) as an ordinary model that transformers loads without this package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter, load_adapter
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.export.low_rank import check_product
from safe_rlhf_panacea.models import load_pretrained_models


def _shares_weights(adapter: PanaceaAdapter, model: Any) -> bool:
    """Whether an adapted layer has its weight in common with another module, as a tied head."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return any(owners[id(layer.weight)] > 1 for layer in adapter.layers.values())


def write_merged(
    folder: Path,
    adapter_folder: str | Path,
    base_model: str,
    preference: torch.Tensor,
    *,
    trust_remote_code: bool = False,
) -> None:
    """Write the base model with W(λ) for its weights, and its tokenizer, in safetensors.

    Args:
        folder: a new folder.
        adapter_folder: the trained adapter's.
        base_model: where the base model comes from; its precision is kept.
        preference: λ, size = (m,).
        trust_remote_code: run code that comes with the base model.

    Raises:
        UserError: the base model cannot be loaded, or W(λ) is not finite in its precision.
        AdapterError: the adapter does not fit it.
    """
    model, tokenizer = load_pretrained_models(
        base_model, model_max_length=None, trust_remote_code=trust_remote_code
    )
    adapter = load_adapter(model, adapter_folder)
    if _shares_weights(adapter, model):
        model.config.tie_word_embeddings = False  # W(λ) of the head is not that of the embeddings
    adapter.merge(preference)
    weights = {f"{name}.weight": layer.weight for name, layer in adapter.layers.items()}
    check_product(weights, str(adapter_folder))
    own = {f"{layer}.{key}" for layer in adapter.layers for key in _parameter_names(adapter, layer)}
    state = {key: value for key, value in model.state_dict().items() if key not in own}
    model.save_pretrained(folder, state_dict=state)
    ChatTemplate.as_recorded(adapter.config.chat_template, tokenizer).keep(tokenizer)
    tokenizer.save_pretrained(folder)


def _parameter_names(adapter: PanaceaAdapter, layer: str) -> list[str]:
    names = (name for name, _ in adapter.layers[layer].named_parameters(recurse=False))
    return [name for name in names if name.startswith("lora_")]
