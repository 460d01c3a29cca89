"""Where a model lies: a name on the hub, or a folder with safetensors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.hub import may_be_hub_name
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.records import misfit

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SCORE_HEAD = "score_head."
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def is_local(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is meant as a folder rather than as a name on the Hugging Face hub."""
    text = str(name_or_path)
    return (
        os.path.exists(text)
        or isinstance(name_or_path, os.PathLike)
        or text.startswith((".", "~", "/"))
        or not may_be_hub_name(text)
    )


def check_model_folder(folder: Path) -> None:
    """Refuse a folder whose config.json or weights are missing, pickled or truncated."""
    if not folder.is_dir():
        text = f"{folder}: no such folder; a model's folder or a hub name is wanted"
        if len(folder.parts) == 2 and os.path.isdir(folder.parts[0]):
            text += f" ({folder.parts[0]} is a folder here, so this is read as a path)"
        raise UserError(text)
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder} holds an adapter and no whole model: no config.json")
        raise UserError(f"{folder} holds no model: config.json is missing")
    read_json(folder / "config.json", infinities=True)
    for file in weight_files(folder):
        check_safetensors(file)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder, all that its index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = sorted(set(_weight_map(folder / INDEX).values()))
        for shard in shards:
            if not (folder / shard).is_file():
                raise UserError(f"{folder} is not whole: {INDEX} names {shard}, which is missing")
        return [folder / shard for shard in shards]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        ours = any(name.startswith("pytorch_model") for name in pickles)
        pattern = "pytorch_model*.bin" if ours else f"*{Path(pickles[0]).suffix}"
        convert = (  # reads nothing but tensors
            'python -c "import glob, torch as t, safetensors.torch as s; '
            f"s.save_file({{k: v.contiguous().clone() for f in glob.glob('{pattern}') "
            f"for k, v in t.load(f, 'cpu', weights_only=True).items()}}, '{WEIGHTS}')\""
        )
        raise UserError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code and are "
            f"not read; convert them there: {convert}"
        )
    raise UserError(f"{folder} holds no weights: {WEIGHTS} is missing")


def _weight_map(index: str | os.PathLike[str]) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not weight_map or misfit(weight_map, dict) or misfit(list(weight_map.values()), [str]):
        raise UserError(f"{index} is no index of weights: it has no weight_map")
    return weight_map


def check_safetensors(file: Path) -> None:
    """Refuse a file that is not one whole safetensors file, with a ``UserError``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is truncated or no safetensors file ({error}): copy or save it again"
        ) from error


def read_tensors(
    name_or_path: str, prefixes: tuple[str, ...], **hub: Any
) -> dict[str, torch.Tensor]:
    """The tensors whose names start with one of ``prefixes``; files on the hub are fetched.

    ``hub`` holds ``cache_dir``, ``revision``, ``token``, ``subfolder`` or ``local_files_only``.
    """
    from safetensors import safe_open
    from transformers.utils import cached_file

    def find(file: str) -> str | None:
        return cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **hub)

    files = [find(WEIGHTS)]
    if files == [None] and (index := find(INDEX)) is not None:
        shards = {file for key, file in _weight_map(index).items() if key.startswith(prefixes)}
        files = [find(shard) for shard in sorted(shards)]
    tensors = {}
    for file in filter(None, files):
        with safe_open(file, framework="pt") as reader:
            names = [name for name in reader.keys() if name.startswith(prefixes)]  # noqa: SIM118
            tensors.update({name: reader.get_tensor(name) for name in names})
    return tensors


def check_score_head(name: str, tensors: Iterable[str]) -> None:
    """Refuse a checkpoint without a head among its ``tensors``, whose scores would be random."""
    if f"{SCORE_HEAD}weight" not in tensors:
        raise UserError(
            f"{name} is no reward model: its weights lack {SCORE_HEAD}weight; train one from "
            "it with python -m safe_rlhf_panacea.base.values.reward"
        )


def check_saved_head(path: str) -> None:
    """``check_score_head`` of a folder, also of pickles; names on the hub are not looked at.

    Safe-RLHF saves pickles, and its loader makes up a head that is missing.
    """
    from safetensors import safe_open

    folder = Path(path).expanduser()
    pickle = folder / "pytorch_model.bin"
    indices = [folder / name for name in (INDEX, f"{pickle.name}.index.json")]
    names: set[str] = set()
    if index := next(filter(Path.is_file, indices), None):
        names = set(read_json(index)["weight_map"])
    elif pickle.is_file():
        names = set(torch.load(pickle, map_location="meta", weights_only=True))
    else:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="pt") as reader:
                names.update(reader.keys())
    if names:
        check_score_head(str(folder), names)
