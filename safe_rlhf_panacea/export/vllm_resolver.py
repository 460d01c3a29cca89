"""A plugin for vLLM: ``NAME@helpful=0.7,harmless=0.3`` is made when it is first asked for.

vLLM keeps LoRAs and its prefix cache by name, so every λ has a name and a folder of its own. An
adapter that is being trained has versions (``rollouts/engine.py``): ``NAME/VERSION@λ``. What is
refused is told to the client with the reason (400); docs/export.md shows how vLLM is started.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.errors import UserError, one_line
from safe_rlhf_panacea.export.formats import RECORD, new_folder, write_peft
from safe_rlhf_panacea.export.low_rank import SavedAdapter, at_preference
from safe_rlhf_panacea.preference import PreferenceError, format_preference, parse_preference
from safe_rlhf_panacea.serving.rules import Rules

# Environment variables: NAME=FOLDER;NAME=FOLDER, where LoRAs are made, and bounds on λ, such as
# harmless>=0.2, separated by semicolons.
ADAPTERS, CACHE, ALLOW = "PANACEA_ADAPTERS", "PANACEA_LORA_CACHE", "PANACEA_ALLOW"
VERSION = re.compile(r"[0-9a-f]{8}-\d+")  # of a run, and of an update: no path can hide in it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
FIXED = "fixed"  # the folder of an adapter that does not depend on λ
DECIMALS = 2  # of λ in a name, so that a server's disk holds a bounded number of folders


def padded_rank(rank: int) -> int:
    """The smallest rank that vLLM takes; a ``UserError`` if there is none so large."""
    if rank > RANKS[-1]:
        raise UserError(f"vLLM takes ranks up to {RANKS[-1]}, the adapter's is {rank}")
    return next(allowed for allowed in RANKS if rank <= allowed)


class PanaceaAdapters:
    """From a model's name in a request to a LoRA's folder; knows nothing of vLLM.

    ``adapters`` are their folders, or those of their versions, by name; bounds on λ are of all.
    """

    def __init__(
        self, adapters: dict[str, str], cache: str | Path, allow: Sequence[str] = ()
    ) -> None:
        self.folders, self.cache, self.allow = adapters, Path(cache), allow
        # What was read, by the name in front of the @ and the base model.
        self.loaded: dict[tuple[str, str], SavedAdapter] = {}

    def folder_of(self, base_model: str, name: str) -> Path | None:
        """The folder of ``NAME@λ`` or ``NAME/VERSION@λ``, made if need be; None for other names.

        Raises:
            UserError, AdapterError, PreferenceError: the adapter or λ is refused.
        """
        adapter_name, separator, text = name.partition("@")
        known, _, version = adapter_name.partition("/")
        if known not in self.folders or (version and not VERSION.fullmatch(version)):
            return None
        adapter = self._adapter(known, version, base_model)
        objectives = adapter.config.names
        if separator and not objectives:
            raise UserError(f"{adapter_name} does not depend on λ: ask for {adapter_name}")
        if objectives and not separator:
            names = ",".join(f"{objective}=…" for objective in objectives)
            raise UserError(f"{name} names no λ: ask for {adapter_name}@{names}")
        preference = torch.zeros(0)
        if separator:
            preference = parse_preference(text, objectives)
            if broken := Rules.of(name, objectives, allow=self.allow).broken(preference):
                raise UserError(f"{name}: {broken}")
            if not version and not torch.equal(preference, preference.round(decimals=DECIMALS)):
                raise UserError(f"{name}: λ may have at most {DECIMALS} decimals")
        label = format_preference(preference, objectives) or FIXED
        if version:  # training draws λ from all of the simplex; its folders are removed again
            label = hashlib.sha256(str(preference.tolist()).encode()).hexdigest()[:16]
        folder = self.cache / adapter_name / label
        if not folder.is_dir():
            try:
                with new_folder(folder, adapter, "vllm", preference=preference.tolist()) as new:
                    part = at_preference(adapter, preference)
                    rank = padded_rank(adapter.config.rank)
                    write_peft(new, part, adapter.config.base_model, rank=rank)
            except (UserError, OSError):
                # Another request, or another server, may have made the same one meanwhile.
                if not (folder / RECORD).is_file():
                    raise
        return folder

    def _adapter(self, known: str, version: str, base_model: str) -> SavedAdapter:
        """An adapter, read and held against vLLM's base model once."""
        name, source = f"{known}/{version}".rstrip("/"), Path(self.folders[known])
        if (name, base_model) not in self.loaded:
            if version:  # remove what was made of versions that the trainer has removed
                cached = self.cache / known
                for folder in cached.iterdir() if cached.is_dir() else ():
                    if VERSION.fullmatch(folder.name) and not (source / folder.name).is_dir():
                        shutil.rmtree(folder, ignore_errors=True)
                self.loaded = {k: one for k, one in self.loaded.items() if one.folder.is_dir()}
            adapter = SavedAdapter.read(source / version)
            own = adapter.config.base_model
            # The names must agree too, but for versions: a trainer's machine may have others.
            if not version and own not in (None, base_model):
                both_there = os.path.exists(own) and os.path.exists(base_model)
                if not (both_there and os.path.samefile(own, base_model)):
                    raise UserError(
                        f"{name} is an adapter of {own}, and this server runs {base_model}"
                    )
            adapter.check_base(base_model)
            self.loaded[name, base_model] = adapter
        return self.loaded[name, base_model]


def adapters_from_environment() -> PanaceaAdapters | None:
    """What the variables name; None if they are not set. A ``UserError`` for another form."""
    text, cache = os.environ.get(ADAPTERS, ""), os.environ.get(CACHE, "")
    if not text:
        return None
    entries = dict(item.partition("=")[::2] for item in text.split(";") if item)
    if not all(name and folder and not {*"@/"} & {*name} for name, folder in entries.items()):
        raise UserError(f"{ADAPTERS}={text}: it must be NAME=FOLDER;NAME=FOLDER")
    if not cache:
        raise UserError(f"{CACHE} is not set: it names the folder for LoRAs made on demand")
    allow = [bound for bound in os.environ.get(ALLOW, "").split(";") if bound.strip()]
    return PanaceaAdapters(entries, cache, allow)


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
            """The request for ``NAME@λ``, or None if it is not one of ours.

            A refusal is a ``UserError``: vLLM answers a ValueError with 400 and its text.
            """
            try:
                folder = await asyncio.to_thread(folder_of, base_model_name, lora_name)
            except (UserError, AdapterError, PreferenceError, OSError) as error:
                logging.getLogger("vllm").warning("%s", error)
                raise UserError(one_line(error) or str(error)) from error
            if folder is None:
                return None
            # A positive number, the same in every process.
            digest = hashlib.sha256(lora_name.encode()).digest()
            number = int.from_bytes(digest[:4], "big") // 2 + 1
            return LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(folder))

    LoRAResolverRegistry.register_resolver("Panacea", PanaceaResolver())
