"""The parts of an exported adapter in PEFT, weighted with any λ in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.folder import RECORD, read_record
from safe_rlhf_panacea.export.low_rank import SHARED


def load_parts(model: Any, folder: str | Path) -> Any:
    """Put the shared LoRA and one per objective on a model of transformers, all active.

    Args:
        model: the base model.
        folder: what ``--format peft-parts`` wrote.

    Returns:
        A ``PeftModel`` at the centre of the simplex; ``set_preference`` moves it.

    Raises:
        UserError: the folder holds no such export.
    """
    from peft import PeftModel

    record = read_record(folder)
    if record.get("format") != "peft-parts":
        raise UserError(f"{Path(folder) / RECORD}: not an export of the format peft-parts")
    objectives = record["objectives"]
    if len(set(map(_peft_name, objectives))) < len(objectives):
        raise UserError(f"PEFT cannot tell the objectives {', '.join(objectives)} apart")
    model = PeftModel.from_pretrained(model, str(Path(folder) / SHARED), adapter_name=SHARED)
    for name in objectives:
        model.load_adapter(str(Path(folder) / name), adapter_name=_peft_name(name))
    model.base_model.set_adapter([SHARED, *map(_peft_name, objectives)])
    set_preference(model, dict.fromkeys(objectives, 1 / max(1, len(objectives))))
    return model


def set_preference(model: Any, preference: dict[str, float]) -> None:
    """Weight each objective's LoRA with its λ_i; for LoRAs with lora_alpha = r this is exact.

    Args:
        model: of ``load_parts``.
        preference: λ_i by the objective's name.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, weight in preference.items():
                module.set_scale(_peft_name(name), float(weight))


def _peft_name(objective: str) -> str:
    """PEFT takes a dot for a step in the module tree."""
    return objective.replace(".", "_")
