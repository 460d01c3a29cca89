"""What an export writes: a folder with a record, and files for other engines in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter.io import CONFIG_NAME, WEIGHTS_NAME
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.low_rank import SHARED, LowRank, SavedAdapter, check_product
from safe_rlhf_panacea.io import atomic_folder, atomic_write_json, check_folder, read_json
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.models.adapted import PanaceaAt
from safe_rlhf_panacea.records import misfit

RECORD = "panacea.json"
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


def read_record(folder: str | Path) -> dict[str, Any]:
    """What an export says of itself; a ``UserError`` where it is none."""
    path = Path(folder) / RECORD
    record = read_json(path)
    if misfit(record, {"objectives": [str]}):
        raise UserError(f"{path}: not the record of an export")
    return record


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything; an export is overwritten if it holds nothing else."""
    check_folder(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} holds other files: choose a new or an empty folder")
    if not overwrite:
        raise UserError(f"{folder} holds an export already: choose another one, or --overwrite")
    files: Any = read_record(folder).get("files")
    if misfit(files, [str]):
        raise UserError(
            f"{folder / RECORD} names no files, as those of older versions: choose another folder, "
            "or remove this one yourself"
        )
    named = {folder / file for file in (*files, RECORD)}
    known = named.union(*(path.parents for path in named))
    for path in sorted(folder.rglob("*")):
        if path not in known or path.is_symlink():
            raise UserError(
                f"{folder} holds {path.relative_to(folder)}, which is no part of the export: move "
                "it, or choose another folder"
            )


@contextmanager
def new_folder(
    target: Path, adapter: SavedAdapter, form: str, *, overwrite: bool = False, **more: Any
) -> Iterator[Path]:
    """A folder to fill, which with its record takes the target's place when the block succeeds."""
    check_target(target, overwrite=overwrite)
    with atomic_folder(target, replace=True) as filled:
        yield filled
        files = sorted(p.relative_to(filled).as_posix() for p in filled.rglob("*") if p.is_file())
        record = {  # what a user of the files has to know
            "format": form,
            "version": safe_rlhf_panacea.__version__,
            "base_model": adapter.config.base_model,
            "objectives": list(adapter.config.names),
            "chat_template": adapter.config.chat_template,
            **more,
            "files": files,
        }
        atomic_write_json(filled / RECORD, record)


def write_peft(
    folder: Path,
    part: Mapping[str, LowRank],
    base_model: str | None,
    *,
    rank: int | None = None,
    transposed: bool = False,
) -> None:
    """Write one LoRA with lora_alpha = r, so that PEFT's own factor is 1.

    It is padded with zeros to ``rank``, for engines that take only some. ``transposed`` says that
    the base keeps its weights as (in, out), as GPT-2's ``Conv1D`` does.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    own = next(iter(part.values())).a.size(0)
    rank = rank or own
    tensors = {}
    for module, update in part.items():
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = pad(update.a, (0, 0, 0, rank - own))
        tensors[f"{name}.lora_B.weight"] = pad(update.b, (0, rank - own))
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": sorted(part),
    }
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_parts(model: Any, folder: str | Path) -> Any:
    """Put the shared LoRA and one per objective on a base model of transformers, all active.

    The folder is what ``--format peft-parts`` wrote, else there is a ``UserError``. The result is
    a ``PeftModel`` at the centre of the simplex; ``set_preference`` moves it.
    """
    from peft import PeftModel

    record = read_record(folder)
    if record.get("format") != "peft-parts":
        raise UserError(f"{Path(folder) / RECORD}: not an export of the format peft-parts")
    objectives = record["objectives"]
    names = {objective: _peft_name(objective) for objective in objectives}
    if len(set(names.values())) < len(objectives):
        raise UserError(f"PEFT cannot tell the objectives {', '.join(objectives)} apart")
    model = PeftModel.from_pretrained(model, str(Path(folder) / SHARED), adapter_name=SHARED)
    for objective, name in names.items():
        model.load_adapter(str(Path(folder) / objective), adapter_name=name)
    model.base_model.set_adapter([SHARED, *names.values()])
    set_preference(model, dict.fromkeys(objectives, 1 / max(1, len(objectives))))
    return model


def set_preference(model: Any, preference: dict[str, float]) -> None:
    """Weight each objective's LoRA of ``load_parts`` with its λ_i, given by the objective's name.

    For LoRAs with lora_alpha = r this is exact.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, weight in preference.items():
                module.set_scale(_peft_name(name), float(weight))


def _peft_name(objective: str) -> str:
    """PEFT takes a dot for a step in the module tree."""
    return objective.replace(".", "_")


def write_gguf(path: Path, part: Mapping[str, LowRank], config: Any) -> None:
    """Write one LoRA for llama.cpp with alpha = rank, so that its scale is λ_i itself."""
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF export needs the package gguf: pip install gguf") from None
    kind = getattr(config, "model_type", "")
    if (name := ARCHITECTURES.get(kind)) is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"GGUF export knows no model of the type {kind!r} (known: {known})")
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
            halves = b.reshape(count, 2, -1, b.size(1))  # of every head; then neighbouring pairs
            b = halves.swapaxes(1, 2).reshape(b.shape)
        writer.add_tensor(f"{tensor}.weight.lora_a", update.a.numpy())
        writer.add_tensor(f"{tensor}.weight.lora_b", b.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_merged(
    folder: Path, adapter: SavedAdapter, base: str, preference: torch.Tensor, **remote: bool
) -> None:
    """Write the base model with W(λ), in its own precision, and its tokenizer, in safetensors."""
    model, tokenizer = load_pretrained_models(base, model_max_length=None, **remote)
    PanaceaAt(adapter.folder).add_to(model, at=preference)
    check_product(dict(model.named_parameters()), str(adapter.folder))
    model.save_pretrained(folder)
    ChatTemplate.as_recorded(adapter.config.chat_template, tokenizer).keep(tokenizer)
    tokenizer.save_pretrained(folder)
