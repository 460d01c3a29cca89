"""An adapter on disk: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterConfig, AdapterError
from safe_rlhf_panacea.adapter.fingerprint import check_base
from safe_rlhf_panacea.adapter.model import PanaceaAdapter, check_fit, inject_adapter

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_TYPE = "panacea-svd-lora"
# Raised when older code would misread what is saved; what does not name one is of format 1.
FORMAT = 1


def save_adapter(adapter: PanaceaAdapter, folder: str | Path) -> None:
    """Write both files, each whole or not at all.

    Not of a soup, whose λ no configuration describes and whose ingredients are on disk.
    """
    from safetensors.torch import save

    if adapter.pref_dim != adapter.config.pref_dim:
        raise AdapterError("a soup cannot be saved as one adapter: keep its ingredients instead")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"adapter_type": ADAPTER_TYPE, "format": FORMAT, **adapter.config.to_dict()}
    config["base_model"] = _recorded(adapter.config.base_model, folder)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    _write(folder / WEIGHTS_NAME, save(adapter.state_dict(), metadata={"format": "pt"}))
    _write(folder / CONFIG_NAME, text.encode())


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:  # a full disk does not say where it is
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_config(folder: str | Path) -> AdapterConfig:
    """The configuration of a saved adapter.

    An ``AdapterError`` names a file that is missing, not JSON, not ours, or of a newer format.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterError(f"{path} is missing: {folder} holds no adapter") from None
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict) or values.pop("adapter_type", None) != ADAPTER_TYPE:
        raise AdapterError(f"{path} does not describe a {ADAPTER_TYPE} adapter")
    if (format_ := values.pop("format", FORMAT)) not in list(range(1, FORMAT + 1)):
        raise AdapterError(
            f"{path}: the adapter is of format {format_!r}, this version of the package reads "
            f"up to {FORMAT}: install a newer one"
        )
    try:
        config = AdapterConfig.from_dict(values)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from None
    return replace(config, base_model=_found(config.base_model, Path(folder)))


def _recorded(base: str | None, folder: Path) -> str | None:
    """A base model as the adapter in ``folder`` names it: what lies beside, relative to it.

    Beside is what some folder holds together with the adapter, other than the root or one that
    holds the user's home: both can then be moved or copied together.
    """
    text, preference = split_base(base or "")
    rest = "" if preference is None else f"@{preference}"
    if base is None or not os.path.isdir(os.path.expanduser(text)):
        return base  # a name on the hub
    places = os.path.expanduser(text), os.path.expanduser("~"), folder
    place, home, folder = (Path(os.path.realpath(one)) for one in places)
    common = next((one for one in place.parents if one in folder.parents), None)
    if common in (None, home, *home.parents):
        return f"{place}{rest}"
    text = Path(os.path.relpath(place, folder)).as_posix()
    return f"{text}{rest}" if text.startswith(".") else f"./{text}{rest}"


def _found(recorded: str | None, folder: Path) -> str | None:
    """The inverse of ``_recorded``; older records are relative to the current folder."""
    if recorded is None or not recorded.startswith("."):
        return recorded
    places = [os.path.abspath(one / recorded) for one in (folder, Path(os.path.realpath(folder)))]
    there = [place for place in (*places, recorded) if os.path.isdir(split_base(place)[0])]
    return (there or places)[0]


def split_base(base: str) -> tuple[str, str | None]:
    """A folder, and the λ that stands behind an ``@``, where one does: an adapter as base model."""
    path, at, preference = base.rpartition("@")
    whole = not at or os.path.exists(os.path.expanduser(base))
    if whole or not os.path.isdir(os.path.expanduser(path)):
        return base, None
    return path, preference


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys are different; Python would keep the last of equal ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def read_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter.

    An ``AdapterError`` where the file is missing or truncated, or a number in it is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS_NAME
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise AdapterError(f"{path} is missing: {folder} holds no adapter") from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is truncated or not safetensors: {error}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(f"{path}: tensor {name} is not finite: its training has diverged")
    return tensors


def load_adapter(model: nn.Module, folder: str | Path) -> PanaceaAdapter:
    """Inject the adapter that ``folder`` holds.

    An ``AdapterError``, and a model as it was, where files are missing or damaged, or the adapter
    belongs to another model: one of other shapes, or one whose weights differ.
    """
    config, tensors = read_config(folder), read_tensors(folder)
    source = str(Path(folder) / WEIGHTS_NAME)
    check_fit(model, config, tensors, source)
    check_base(dict(model.named_parameters()), config.base_fingerprint, str(folder))
    adapter = inject_adapter(model, config)
    adapter.load_state_dict(tensors, source=source)
    return adapter
