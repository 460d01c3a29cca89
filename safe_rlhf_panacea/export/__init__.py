"""A trained adapter in the forms that other engines load: plain LoRAs, or whole weights.

W(λ) is linear in λ, so an adapter is exactly one LoRA of rank k that λ does not touch and one LoRA
of rank 1 per objective, weighted with λ_i. Command lines are read before torch is imported, so
these names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_rlhf_panacea.export.formats import load_parts, set_preference
    from safe_rlhf_panacea.export.low_rank import (
        LowRank,
        SavedAdapter,
        at_preference,
        objective_part,
        shared_part,
    )

__all__ = ["LowRank", "SavedAdapter", "at_preference", "load_parts"]
__all__ += ["objective_part", "set_preference", "shared_part"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "formats" if name in ("load_parts", "set_preference") else "low_rank"
    return getattr(import_module(f"{__name__}.{home}"), name)
