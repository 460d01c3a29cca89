"""Whether an adapter fits the base model that its export will be put on."""

from __future__ import annotations

from typing import Any

import torch

from safe_rlhf_panacea.adapter.model import check_fit
from safe_rlhf_panacea.export.low_rank import SavedAdapter


def check_base(adapter: SavedAdapter, config: Any, *, trust_remote_code: bool = False) -> None:
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
