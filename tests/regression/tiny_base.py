"""Tiny language models whose weights are the same with every version of every library.

torch promises no stream of random numbers from one version to the next. NumPy's ``RandomState``
is frozen for good (NEP 19), so the weights come from it. Each tensor has a stream of its own,
seeded by its name, so that neither the order of the tensors nor new ones beside them matter.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def frozen_stream(seed, name):
    """NumPy's frozen stream for a seed and a name."""
    return np.random.RandomState([seed, zlib.crc32(name.encode())])


def frozen_normal(seed, name, shape):
    """A float32 tensor of this shape, drawn from N(0, 1)."""
    return torch.from_numpy(frozen_stream(seed, name).standard_normal(tuple(shape))).float()


def tiny_base(recipe):
    """A language model in evaluation mode, made as a reference describes it.

    Args:
        recipe: ``model_type`` and ``config`` of transformers; ``seed``; ``std``, the standard
            deviation of matrices (vectors have 0.1, around 1 for the weights of norms and around
            0 for biases); ``dtype``.
    """
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(recipe["model_type"], **recipe["config"])
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = frozen_normal(recipe["seed"], name, parameter.shape)
            centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            spread = 0.1 if parameter.dim() == 1 else recipe["std"]
            parameter.copy_(centre + spread * noise)
    return model.to(DTYPES[recipe["dtype"]]).eval()
