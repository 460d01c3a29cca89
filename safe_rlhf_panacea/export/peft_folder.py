"""Low-rank updates as folders that PEFT loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from safe_rlhf_panacea.export.low_rank import LowRank

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"


def write_peft(
    folder: Path,
    part: Mapping[str, LowRank],
    base_model: str | None,
    *,
    rank: int | None = None,
    transposed: bool = False,
) -> None:
    """Write one LoRA with lora_alpha = r, so that PEFT's own factor is 1.

    Args:
        folder: made if it is not there.
        part: qualified module name to update.
        base_model: where the base model comes from.
        rank: pad with zeros to this rank, for engines that take only some.
        transposed: the base keeps its weights as (in, out), as GPT-2's ``Conv1D`` does.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    own = next(iter(part.values())).a.size(0)
    pad = (rank or own) - own
    tensors = {}
    for module, update in part.items():
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(update.a, (0, 0, 0, pad))
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(update.b, (0, pad))
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": own + pad,
        "lora_alpha": own + pad,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": sorted(part),
    }
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
