"""Tiny language models of frozen random numbers: the same for every version of every library.

torch promises no stream of random numbers from one version to the next. NumPy's ``RandomState``
is frozen for good (NEP 19), so the weights come from it, each tensor from a stream of its own
that its name starts: their order, and new tensors beside them, change nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from safe_rlhf_panacea.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def frozen_stream(seed: int, name: str) -> np.random.RandomState:
    """A stream of random numbers that is the same for good."""
    return np.random.RandomState([seed, zlib.crc32(name.encode())])


def frozen_normal(seed: int, name: str, shape: Sequence[int]) -> torch.Tensor:
    """N(0, 1), float32, of the given size."""
    return torch.from_numpy(frozen_stream(seed, name).standard_normal(tuple(shape))).float()


def tiny_base(recipe: Mapping[str, Any]) -> Any:
    """A language model in evaluation mode.

    Args:
        recipe: ``model_type`` and ``config``, transformers' own; ``seed``; ``std`` of matrices
            (vectors are 0.1 around 1 for norms' weights and around 0 for biases); ``dtype``.

    Raises:
        UserError: an entry is missing or of no known value.
    """
    try:
        seed, std, dtype = recipe["seed"], recipe["std"], DTYPES[recipe["dtype"]]
        config = AutoConfig.for_model(recipe["model_type"], **recipe["config"])
    except (KeyError, ValueError) as error:
        raise UserError(f"the recipe of a tiny base model: {error} is missing or unknown") from None
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = frozen_normal(seed, name, parameter.shape)
            centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            spread = 0.1 if parameter.dim() == 1 else std
            parameter.copy_(centre + spread * noise)
    return model.to(dtype).eval()
