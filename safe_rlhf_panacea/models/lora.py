"""A LoRA that PEFT saved, read without PEFT."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter.io import CONFIG_NAME, WEIGHTS_NAME
from safe_rlhf_panacea.adapter.layer import linear_shape
from safe_rlhf_panacea.adapter.model import is_linear
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.files import check_safetensors
from safe_rlhf_panacea.models.loading import check_finite
from safe_rlhf_panacea.records import misfit

# Options under which a LoRA is more than A and B, or is no update of the base as it was saved.
BEYOND = (
    *("use_dora", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("lora_bias", "use_qalora", "alora_invocation_tokens", "arrow_config", "use_bdlora"),
)
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # that leave the base as it is
KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Lora:
    """A LoRA's folder, and the values of its ``adapter_config.json``."""

    folder: Path
    values: Mapping[str, Any]

    @property
    def base(self) -> str:
        """The model under it."""
        return self.values["base_model_name_or_path"]

    @property
    def is_classifier(self) -> bool:
        """Whether it was trained on a sequence classifier, which a reward model may be."""
        return self.values.get("task_type") == "SEQ_CLS"

    @property
    def merge_command(self) -> str:
        """What makes a whole model of it, where PEFT is installed."""
        kind = "SequenceClassification" if self.is_classifier else "CausalLM"
        code = (
            f"import peft, transformers as t; "
            f"peft.AutoPeftModelFor{kind}.from_pretrained({str(self.folder)!a})"
            f".merge_and_unload().save_pretrained('DIR'); "
            f"t.AutoTokenizer.from_pretrained({self.base!a}).save_pretrained('DIR')"
        )
        return f"python -c {shlex.quote(code)}"  # the base's name may come from anybody

    def check(self) -> None:
        """Refuse what is more than A, B and the head of a classifier, which only PEFT merges."""
        values = self.values
        odd = [name for name in BEYOND if values.get(name)]
        if values.get("bias", "none") != "none":
            odd.append(f"bias {values['bias']}")
        if values.get("init_lora_weights") not in STARTS:
            odd.append(f"init_lora_weights {values['init_lora_weights']}")
        for name in self.tensors:
            is_head = self.is_classifier and "lora_" not in name
            if not KEY.fullmatch(name) and not is_head:
                odd.append(f"the tensor {name}")
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
        """The trained head of a classifier, by the model's names; empty without one."""
        others = {k: v for k, v in self.tensors.items() if not KEY.fullmatch(k)}
        return {name.removeprefix("base_model.model."): value for name, value in others.items()}

    def updates(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Each adapted layer's name and update B A · α / r, size = (out_features, in_features)."""
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


def read_lora(folder: Path, values: Mapping[str, Any]) -> Lora:
    """The LoRA whose configuration holds ``values``; other kinds of adapters are refused."""
    file = folder / CONFIG_NAME
    if values.get("peft_type") != "LORA":
        raise UserError(f"{file} describes neither a Panacea adapter nor a LoRA of PEFT")
    patterns = values.get("alpha_pattern")
    shape = {"lora_alpha": float, "base_model_name_or_path": str}
    by_pattern = dict.fromkeys(patterns, float) if isinstance(patterns, dict) else type(None)
    if wrong := misfit(values, shape) or misfit(patterns, by_pattern, "alpha_pattern"):
        raise UserError(f"{file}: {wrong}")
    for pattern in patterns or ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{file}: alpha_pattern has {pattern!r}, which is no regular expression: {error}"
            ) from None
    return Lora(folder, values)
