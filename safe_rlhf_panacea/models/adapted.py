"""A model that lies on disk as an adapter on another one: Panacea's at one λ, or a LoRA of PEFT.

It is loaded as its base model with the update added to the weights, in the base's own precision and
computed in float32, as ``--format merged`` of the export writes it. PEFT itself is not needed.
"""

from __future__ import annotations

import abc
import hashlib
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import PreferenceState, SvdLoraLinear
from safe_rlhf_panacea.adapter.fingerprint import UPDATE, check_base
from safe_rlhf_panacea.adapter.io import (
    ADAPTER_TYPE,
    CONFIG_NAME,
    WEIGHTS_NAME,
    read_config,
    read_tensors,
    split_base,
)
from safe_rlhf_panacea.adapter.layer import factor_shapes, linear_shape
from safe_rlhf_panacea.adapter.model import check_fit, is_linear
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.models.files import INDEX, WEIGHTS, check_safetensors
from safe_rlhf_panacea.models.loading import check_finite
from safe_rlhf_panacea.preference import format_preference, parse_preference
from safe_rlhf_panacea.records import misfit

# Options under which a LoRA is more than A and B, or is no update of the base as it was saved.
BEYOND = (
    *("use_dora", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("lora_bias", "use_qalora", "alora_invocation_tokens", "arrow_config", "use_bdlora"),
)
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # that leave the base as it is
KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
Updates = Iterator[tuple[str, torch.Tensor]]  # each adapted layer's name and W - W0 in float32


class Adapted(abc.ABC):
    """An adapter's folder, and the model under it; ``preference`` stands behind the name's @."""

    is_classifier = False  # whether it was trained on a sequence classifier
    vector = torch.empty(0)  # λ, size = (m,)

    def __init__(self, folder: Path, preference: str | None, base: str | None) -> None:
        """``base`` is the base model that the configuration names."""
        self.folder, self.preference, self._base = folder, preference, base

    @property
    def base(self) -> str:
        """The base model, which may be an adapter again."""
        if self._base is None:
            raise UserError(f"{self.folder} is an adapter that names no base model")
        return self._base

    @property
    def head(self) -> dict[str, torch.Tensor]:
        """The trained head of a classifier, by the model's names; empty without one."""
        return {}

    @property
    @abc.abstractmethod
    def merge_command(self) -> str:
        """What makes a whole model of it."""

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse an adapter that cannot be added up, and a λ that does not fit it."""

    @abc.abstractmethod
    def updates(self, model: nn.Module, at: torch.Tensor | None) -> Updates:
        """The updates at λ, size = (out_features, in_features) each."""

    @contextmanager
    def base_errors(self) -> Iterator[None]:
        """Around the loading of the base: checks before it, and errors that name the adapter.

        An adapter that is, perhaps by way of others, its own base model is refused too.
        """
        folders, under = {os.path.realpath(self.folder)}, find_adapter(self.base)
        while under is not None:
            if os.path.realpath(under.folder) in folders:
                raise UserError(f"{self.folder}: {under.folder} is an adapter on itself")
            folders.add(os.path.realpath(under.folder))
            under = find_adapter(under.base)
        self.check()
        try:
            yield
        except UserError as error:
            raise UserError(f"{error} (the base model of {self.folder}, an adapter)") from error

    def add_to(
        self, model: Any, dtype: torch.dtype | str | None = None, *, at: torch.Tensor | None = None
    ) -> None:
        """Add the update to the base model's weights, which then get the type ``dtype``.

        λ is ``at``, size = (m,), by default the one behind the folder's name. Each weight keeps
        the update's checksum; an output layer that shares its weight with the input embeddings
        gets one of its own; buffers, such as positions' frequencies, keep their type.
        """
        digest = hashlib.sha256((self.folder / WEIGHTS_NAME).read_bytes())
        if self.preference is not None:
            digest.update(str(self.vector.tolist()).encode())
        embeddings = model.get_input_embeddings().weight
        for name, update in self.updates(model, at):
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


class PanaceaAt(Adapted):
    """An adapter of this package, at one λ."""

    def __init__(self, folder: Path, preference: str | None = None) -> None:
        """Read its configuration."""
        self.config = read_config(folder)
        super().__init__(folder, preference, self.config.base_model)

    @property
    def vector(self) -> torch.Tensor:  # type: ignore[override]
        if not self.config.pref_dim:
            return torch.empty(0)
        return parse_preference(self.preference or "", self.config.objectives)

    @property
    def merge_command(self) -> str:
        command = f"python -m safe_rlhf_panacea.export --adapter {shlex.quote(str(self.folder))}"
        preference = shlex.quote(self.preference or self._centre)
        at = f"--preference {preference} " if self.config.pref_dim else ""
        return f"{command} --format merged {at}--output_dir DIR"

    @property
    def _centre(self) -> str:
        """An example of a λ."""
        middle = torch.full((self.config.pref_dim,), 1 / self.config.pref_dim)
        return format_preference(middle, self.config.objectives)

    def check(self) -> None:
        if self.config.pref_dim == 0 and self.preference is not None:
            raise UserError(f"{self.folder} does not depend on λ: leave out @{self.preference}")
        if self.config.pref_dim > 0 and self.preference is None:
            raise UserError(
                f"{self.folder} is a Panacea adapter, and a model to start from is taken at one λ: "
                f"write {self.folder}@{self._centre}, or make a whole model of it "
                f"with {self.merge_command}"
            )
        _ = self.vector

    @torch.no_grad()
    def updates(self, model: nn.Module, at: torch.Tensor | None) -> Updates:
        config, tensors = self.config, read_tensors(self.folder)
        check_fit(model, config, tensors, str(self.folder / WEIGHTS_NAME))
        check_base(dict(model.named_parameters()), config.base_fingerprint, str(self.folder))
        preference, state = self.vector if at is None else at, PreferenceState(config.pref_dim)
        for name in dict.fromkeys(key.rpartition(".")[0] for key in tensors):
            with torch.random.fork_rng(devices=[]):  # its start is drawn, and not used
                layer = SvdLoraLinear(model.get_submodule(name), config, state)
            for key in factor_shapes(layer.out_features, layer.in_features, config):
                getattr(layer, key).copy_(tensors[f"{name}.{key}"])
            yield name, layer.get_delta_weight(preference)


class Lora(Adapted):
    """A LoRA that PEFT saved; ``values`` are those of its ``adapter_config.json``."""

    def __init__(self, folder: Path, preference: str | None, values: Mapping[str, Any]) -> None:
        """Refuse other kinds of adapters, and values of another form."""
        file, patterns = folder / CONFIG_NAME, values.get("alpha_pattern")
        if values.get("peft_type") != "LORA":
            raise UserError(f"{file} describes neither a Panacea adapter nor a LoRA of PEFT")
        shape = {"lora_alpha": float, "base_model_name_or_path": str}
        by_pattern = dict.fromkeys(patterns, float) if isinstance(patterns, dict) else type(None)
        if wrong := misfit(values, shape) or misfit(patterns, by_pattern, "alpha_pattern"):
            raise UserError(f"{file}: {wrong}")
        for pattern in patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"{file}: alpha_pattern has {pattern!r}, which is no regular expression"
                raise UserError(f"{what}: {error}") from None
        super().__init__(folder, preference, values["base_model_name_or_path"])
        self.values, self.is_classifier = values, values.get("task_type") == "SEQ_CLS"

    @property
    def merge_command(self) -> str:
        kind = "SequenceClassification" if self.is_classifier else "CausalLM"
        code = (
            f"import peft, transformers as t; "
            f"peft.AutoPeftModelFor{kind}.from_pretrained({str(self.folder)!a})"
            f".merge_and_unload().save_pretrained('DIR'); "
            f"t.AutoTokenizer.from_pretrained({self.base!a}).save_pretrained('DIR')"
        )
        return f"python -c {shlex.quote(code)}"  # the base's name may come from anybody

    def check(self) -> None:
        if self.preference is not None:
            raise UserError(f"{self.folder} is a LoRA: leave out @{self.preference}")
        values = self.values
        odd = [name for name in BEYOND if values.get(name)]
        odd += [f"bias {values['bias']}"] if values.get("bias", "none") != "none" else []
        if values.get("init_lora_weights") not in STARTS:
            odd.append(f"init_lora_weights {values['init_lora_weights']}")
        names = (name for name in self.tensors if "lora_" in name or not self.is_classifier)
        odd += [f"the tensor {name}" for name in names if not KEY.fullmatch(name)]
        if odd:
            raise UserError(
                f"{self.folder} is a LoRA of PEFT with {odd[0]}, which only PEFT merges: make a "
                f"whole model of it with {self.merge_command}"
            )

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is saved, by PEFT's names: a whole file of finite numbers."""
        from safetensors.torch import load_file

        file = self.folder / WEIGHTS_NAME
        if not file.is_file():
            raise UserError(f"{self.folder} is a LoRA of PEFT without its weights, {WEIGHTS_NAME}")
        check_safetensors(file)
        tensors = load_file(file)
        check_finite(tensors.items(), str(self.folder))
        return tensors

    @property
    def head(self) -> dict[str, torch.Tensor]:
        others = {k: v for k, v in self.tensors.items() if not KEY.fullmatch(k)}
        return {name.removeprefix("base_model.model."): value for name, value in others.items()}

    def updates(self, model: nn.Module, at: torch.Tensor | None) -> Updates:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in self.tensors.items():
            if match := KEY.fullmatch(key):
                parts.setdefault(match[1], {})[match[2]] = tensor.float()
        sizes = {name: linear_shape(m) for name, m in model.named_modules() if is_linear(m)}
        patterns = self.values.get("alpha_pattern") or {}
        for name, part in parts.items():
            a, b = part.get("A"), part.get("B")  # sizes = (r, in_features), (out_features, r)
            if a is None or b is None or sizes.get(name) != (b.size(0), a.size(1)):
                raise UserError(f"{self.folder}: the LoRA of {name} has no place in this model")
            # A pattern is the end of a layer's name, as PEFT reads it.
            own = (v for pattern, v in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
            alpha, rank = next(own, self.values["lora_alpha"]), a.size(0)
            scale = alpha / (math.sqrt(rank) if self.values.get("use_rslora") else rank)
            yield name, scale * (b @ a)


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
    if not isinstance(values, dict) or values.get("adapter_type") == ADAPTER_TYPE:
        return PanaceaAt(folder, preference)
    return Lora(folder, preference, values)


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
