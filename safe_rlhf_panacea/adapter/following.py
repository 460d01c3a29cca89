"""λ follows the rows of a model's passes, whatever is done with them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter.state import PreferenceState


def _generate(model: Any, state: PreferenceState, *args: Any, **kwargs: Any) -> Any:
    with state.expanded(), state.reusing():
        return type(model).generate(model, *args, **kwargs)


def follow_generate(model: nn.Module, state: PreferenceState) -> None:
    """Let λ follow the rows when ``generate`` repeats them."""
    if not hasattr(model, "generate"):
        return
    # Not a closure: a copy of the model must generate with the copy.
    object.__setattr__(model, "generate", functools.partial(_generate, model, state))


def _note_shape(
    state: PreferenceState, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    given = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    for inputs in given:
        if torch.is_tensor(inputs) and inputs.dim() == 2 + inputs.is_floating_point():
            state.shape = (inputs.size(0), inputs.size(1))
            return


def follow_tokens(model: nn.Module, state: PreferenceState) -> None:
    """Let λ follow the rows where a layer is given all tokens of a batch in one dimension.

    Models inside a model are asked too: a score model cuts a batch into passes of its backbone.
    """
    note = functools.partial(_note_shape, state)
    for module in model.modules():
        if module is model or hasattr(module, "base_model_prefix"):
            module.register_forward_pre_hook(note, with_kwargs=True)
