"""λ follows the rows of a model's passes, whatever is done with them."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from safe_rlhf_panacea.adapter.state import PreferenceState


def _generate(model: nn.Module, state: PreferenceState, *args: Any, **kwargs: Any) -> Any:
    with state.expanded(), state.reusing():
        return type(model).generate(model, *args, **kwargs)


def follow_generate(model: nn.Module, state: PreferenceState) -> None:
    """Let λ follow the rows when ``generate`` repeats them."""
    if not hasattr(model, "generate"):
        return
    # Not a closure: a copy of the model must generate with the copy.
    model.generate = functools.partial(_generate, model, state)
