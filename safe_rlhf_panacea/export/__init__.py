"""A trained adapter in the forms that other engines load: plain LoRAs, or whole weights.

W(λ) is linear in λ, so an adapter is exactly one LoRA of rank k that λ does not touch and one LoRA
of rank 1 per objective, weighted with λ_i.
"""

from safe_rlhf_panacea.export.formats import load_parts, set_preference
from safe_rlhf_panacea.export.low_rank import (
    LowRank,
    SavedAdapter,
    at_preference,
    objective_part,
    shared_part,
)

__all__ = [
    "LowRank",
    "SavedAdapter",
    "at_preference",
    "load_parts",
    "objective_part",
    "set_preference",
    "shared_part",
]
