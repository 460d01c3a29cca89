"""A plugin for vLLM: ``NAME@helpful=0.7,harmless=0.3`` is made when it is first asked for.

vLLM loads a LoRA per name, and keeps its prefix cache by name; so every λ gets a name and a
folder of its own. Two environment variables say what may be asked for:

- ``PANACEA_ADAPTERS``: ``NAME=FOLDER``, several separated by ``;``.
- ``PANACEA_LORA_CACHE``: where the folders are made.

Start vLLM with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 --enable-lora --max-lora-rank 16``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from pathlib import Path

import torch

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.folder import RECORD, describe, new_folder
from safe_rlhf_panacea.export.low_rank import SavedAdapter, at_preference
from safe_rlhf_panacea.export.peft_folder import write_peft
from safe_rlhf_panacea.preference import PreferenceError, format_preference, parse_preference

ADAPTERS, CACHE = "PANACEA_ADAPTERS", "PANACEA_LORA_CACHE"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
DECIMALS = 2  # of λ in a name, so that a server's disk holds a bounded number of folders


def is_same_file(first: str, second: str) -> bool:
    """Whether two paths lead to the same file or folder."""
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


def padded_rank(rank: int) -> int:
    """The smallest rank that vLLM takes.

    Raises:
        UserError: there is none so large.
    """
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise UserError(f"vLLM takes ranks up to {RANKS[-1]}, the adapter's is {rank}")


def write_vllm(folder: Path, adapter: SavedAdapter, preference: torch.Tensor) -> None:
    """The adapter at one λ, size = (m,), as a LoRA of a rank that vLLM takes."""
    part = at_preference(adapter, preference)
    rank = padded_rank(adapter.config.rank)
    write_peft(folder, part, adapter.config.base_model, rank=rank)


class PanaceaAdapters:
    """From a model's name in a request to a LoRA's folder; knows nothing of vLLM."""

    def __init__(self, adapters: dict[str, str], cache: str | Path) -> None:
        """Remember which adapters may be asked for; each is read when it first is."""
        self.folders = adapters
        self.cache = Path(cache)
        self.loaded: dict[str, SavedAdapter] = {}

    def folder_of(self, base_model: str, name: str) -> Path | None:
        """The folder of ``NAME@λ``, made if it is not there.

        Returns:
            None for the name of no Panacea adapter, or of one of another base model.

        Raises:
            UserError, AdapterError, PreferenceError: the adapter or λ is refused.
        """
        adapter_name, separator, text = name.partition("@")
        if not separator or adapter_name not in self.folders:
            return None
        if adapter_name not in self.loaded:
            self.loaded[adapter_name] = SavedAdapter.read(self.folders[adapter_name])
        adapter = self.loaded[adapter_name]
        own = adapter.config.base_model
        if own not in (None, base_model) and not is_same_file(own, base_model):
            return None
        adapter.check_base(base_model)
        objectives = adapter.objectives
        if not objectives:
            raise UserError(f"{name}: {adapter_name} does not depend on λ")
        preference = parse_preference(text, objectives)
        if not torch.equal(preference, preference.round(decimals=DECIMALS)):
            raise UserError(f"{name}: λ may have at most {DECIMALS} decimals")
        folder = self.cache / adapter_name / format_preference(preference, objectives)
        if not folder.is_dir():
            self._make(folder, adapter, preference)
        return folder

    def _make(self, folder: Path, adapter: SavedAdapter, preference: torch.Tensor) -> None:
        record = describe(adapter, "vllm", preference=preference.tolist())
        try:
            with new_folder(folder, record, overwrite=False) as new:
                write_vllm(new, adapter, preference)
        except (UserError, OSError):
            # Another request, or another server, may have made the same one meanwhile.
            if not (folder / RECORD).is_file():
                raise


def lora_id(name: str) -> int:
    """A positive number for a name, the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") // 2 + 1


def adapters_from_environment() -> PanaceaAdapters | None:
    """What the two variables name; None if they are not set.

    Raises:
        UserError: ``PANACEA_ADAPTERS`` is not of the form, or has no cache.
    """
    text, cache = os.environ.get(ADAPTERS, ""), os.environ.get(CACHE, "")
    if not text:
        return None
    entries = dict(item.partition("=")[::2] for item in text.split(";") if item)
    if not all(name and folder and "@" not in name for name, folder in entries.items()):
        raise UserError(f"{ADAPTERS}={text}: it must be NAME=FOLDER;NAME=FOLDER")
    if not cache:
        raise UserError(f"{CACHE} is not set: it names the folder for LoRAs made on demand")
    return PanaceaAdapters(entries, cache)


def register() -> None:
    """vLLM's entry point: register the resolver, where adapters are named."""
    adapters = adapters_from_environment()
    if adapters is None:
        return
    folder_of = adapters.folder_of
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    class PanaceaResolver(LoRAResolver):
        """Makes LoRAs of Panacea adapters on demand."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            """The request for ``NAME@λ``, or None if it is not one of ours."""
            try:
                folder = await asyncio.to_thread(folder_of, base_model_name, lora_name)
            except (UserError, AdapterError, PreferenceError, OSError) as error:
                logging.getLogger("vllm").warning("%s", error)
                return None
            if folder is None:
                return None
            return LoRARequest(
                lora_name=lora_name, lora_int_id=lora_id(lora_name), lora_path=str(folder)
            )

    LoRAResolverRegistry.register_resolver("Panacea", PanaceaResolver())
