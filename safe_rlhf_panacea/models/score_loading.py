"""Score models from disk or the hub, in a role."""

from __future__ import annotations

from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.models.auto import AutoModelForScore
from safe_rlhf_panacea.models.positions import check_positions
from safe_rlhf_panacea.models.pretrained import load_pretrained_models


def load_score_model(
    path: str,
    role: str,
    *,
    max_length: int,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A score model and its tokenizer, which pads on the right.

    Args:
        path: a folder or a name on the hub.
        role: ``reward``, ``cost`` or ``critic``.
        max_length: of prompt and response together, in tokens.
        normalize: whether it uses its own normaliser.
        dtype: of the weights; None: as saved.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: there is none, or it has fewer positions.
    """
    adapted = find_adapter(path)
    if adapted is not None and adapted.lora is None:
        raise UserError(
            f"{path} is a Panacea adapter, a policy and no reward model; one is trained from it "
            "with python -m safe_rlhf_panacea.base.values.reward"
        )
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=max_length,
        padding_side="right",
        auto_model_type=AutoModelForScore,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        auto_model_kwargs={"score_type": role, "do_normalize": normalize},
    )
    check_positions(model, max_length, path)
    return model, tokenizer
