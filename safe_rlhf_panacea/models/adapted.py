"""A model that lies on disk as an adapter on another one: Panacea's at one λ, or a LoRA of PEFT.

It is loaded as its base model with the update added to the weights, in the base's own precision and
computed in float32, as ``--format merged`` of the export writes it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, PreferenceState, SvdLoraLinear
from safe_rlhf_panacea.adapter.fingerprint import UPDATE, check_base
from safe_rlhf_panacea.adapter.io import (
    ADAPTER_TYPE,
    CONFIG_NAME,
    WEIGHTS_NAME,
    read_config,
    read_tensors,
    split_base,
)
from safe_rlhf_panacea.adapter.layer import factor_shapes
from safe_rlhf_panacea.adapter.model import check_fit
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.models.files import INDEX, WEIGHTS
from safe_rlhf_panacea.models.lora import Lora, read_lora
from safe_rlhf_panacea.preference import format_preference, parse_preference

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Adapted:
    """An adapter's folder, and the model under it."""

    folder: Path
    preference: str | None  # what stands behind the @
    lora: Lora | None  # of PEFT; None for an adapter of this package

    @cached_property
    def config(self) -> AdapterConfig:
        """Of an adapter of this package."""
        return read_config(self.folder)

    @property
    def base(self) -> str:
        """The base model, which may be an adapter again."""
        base = self.lora.base if self.lora else self.config.base_model
        if base is None:
            raise UserError(f"{self.folder} is an adapter that names no base model")
        return base

    @property
    def merge_command(self) -> str:
        """What makes a whole model of it."""
        if self.lora:
            return self.lora.merge_command
        command = f"python -m safe_rlhf_panacea.export --adapter {shlex.quote(str(self.folder))}"
        preference = shlex.quote(self.preference or self._centre)
        at = f"--preference {preference} " if self.config.pref_dim else ""
        return f"{command} --format merged {at}--output_dir DIR"

    @property
    def _centre(self) -> str:
        """An example of a λ."""
        middle = torch.full((self.config.pref_dim,), 1 / self.config.pref_dim)
        return format_preference(middle, self.config.objectives)

    @property
    def _vector(self) -> torch.Tensor:
        """λ, size = (m,)."""
        if not self.config.pref_dim:
            return torch.empty(0)
        return parse_preference(self.preference or "", self.config.objectives)

    @contextmanager
    def base_errors(self) -> Iterator[None]:
        """Around the loading of the base: checks before it, and errors that name the adapter.

        Refused are a LoRA of a kind that only PEFT merges, no λ, one too many or what is none, and
        an adapter that is, perhaps by way of others, its own base model.
        """
        folders, under = {os.path.realpath(self.folder)}, find_adapter(self.base)
        while under is not None:
            if os.path.realpath(under.folder) in folders:
                raise UserError(f"{self.folder}: {under.folder} is an adapter on itself")
            folders.add(os.path.realpath(under.folder))
            under = find_adapter(under.base)
        if self.lora:
            if self.preference is not None:
                raise UserError(f"{self.folder} is a LoRA: leave out @{self.preference}")
            self.lora.check()
        elif self.config.pref_dim == 0 and self.preference is not None:
            raise UserError(f"{self.folder} does not depend on λ: leave out @{self.preference}")
        elif self.config.pref_dim > 0 and self.preference is None:
            raise UserError(
                f"{self.folder} is a Panacea adapter, and a model to start from is taken at one λ: "
                f"write {self.folder}@{self._centre}, or make a whole model of it "
                f"with {self.merge_command}"
            )
        else:
            _ = self._vector  # refuses what is no λ
        try:
            yield
        except UserError as error:
            raise UserError(f"{error} (the base model of {self.folder}, an adapter)") from error

    def add_to(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype | str | None = None,
        *,
        at: torch.Tensor | None = None,
    ) -> None:
        """Add the update to the base model's weights, which then get the type ``dtype``.

        λ is ``at``, size = (m,), by default the one behind the folder's name. Each weight keeps
        the update's checksum; an output layer that shares its weight with the input embeddings
        gets one of its own; buffers, such as positions' frequencies, keep their type.
        """
        digest = hashlib.sha256((self.folder / WEIGHTS_NAME).read_bytes())
        if self.preference is not None:
            digest.update(str(self._vector.tolist()).encode())
        embeddings = model.get_input_embeddings().weight
        for name, update in self.lora.updates(model) if self.lora else self._updates(model, at):
            module = model.get_submodule(name)
            weight = module.get_parameter("weight")
            if weight is embeddings:
                model.config.tie_word_embeddings = False
            update = update if isinstance(module, nn.Linear) else update.t()  # Conv1D: (in, out)
            module.weight = nn.Parameter((weight.detach().float() + update).to(weight.dtype))
            setattr(module.weight, UPDATE, digest.hexdigest()[:16])
        wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        for parameter in model.parameters() if wanted else ():
            parameter.data = parameter.data.to(wanted)

    @torch.no_grad()
    def _updates(
        self, model: nn.Module, at: torch.Tensor | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """W(λ) - W0 of each adapted layer in float32, size = (out_features, in_features)."""
        config, tensors = self.config, read_tensors(self.folder)
        check_fit(model, config, tensors, str(self.folder / WEIGHTS_NAME))
        check_base(dict(model.named_parameters()), config.base_fingerprint, str(self.folder))
        preference, state = self._vector if at is None else at, PreferenceState(config.pref_dim)
        for name in dict.fromkeys(key.rpartition(".")[0] for key in tensors):
            with torch.random.fork_rng(devices=[]):  # its start is drawn, and not used
                layer = SvdLoraLinear(model.get_submodule(name), config, state)
            for key in factor_shapes(layer.out_features, layer.in_features, config):
                getattr(layer, key).copy_(tensors[f"{name}.{key}"])
            yield name, layer.get_delta_weight(preference)


def find_adapter(name_or_path: str | os.PathLike[str]) -> Adapted | None:
    """The adapter that ``FOLDER`` or ``FOLDER@λ`` names; None for whole models and hub names."""
    text, preference = split_base(str(name_or_path))
    folder = Path(text).expanduser()
    whole = any((folder / file).is_file() for file in (WEIGHTS, INDEX))
    if whole or not (folder / CONFIG_NAME).is_file():
        if preference is not None:
            raise UserError(f"{folder} is no Panacea adapter: leave out @{preference}")
        return None
    values = read_json(folder / CONFIG_NAME)
    ours = not isinstance(values, dict) or values.get("adapter_type") == ADAPTER_TYPE
    return Adapted(folder, preference, None if ours else read_lora(folder, values))


@contextmanager
def base_of(adapter: str | Path, recorded: str | None, given: str | None) -> Iterator[str]:
    """The base model to load inside the block, whose errors name the adapter as well.

    It is the one that the adapter's configuration records, or what ``--base_model`` gives instead.
    """
    if (base := given or recorded) is None:
        raise UserError(f"{adapter} names no base model: give one with --base_model")
    try:
        yield base
    except UserError as error:
        if given:
            raise
        raise UserError(
            f"{error} (the base model that {adapter} names; --base_model gives another place)"
        ) from error
