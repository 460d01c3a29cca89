"""The SVD-LoRA adapter with λ among its singular values; plain torch is enough for it."""

from safe_rlhf_panacea.adapter.config import AdapterConfig, AdapterError
from safe_rlhf_panacea.adapter.io import SoupLinear, load_adapter, load_soup
from safe_rlhf_panacea.adapter.layer import SvdLoraLinear
from safe_rlhf_panacea.adapter.model import PanaceaAdapter, inject_adapter
from safe_rlhf_panacea.adapter.state import (
    PreferenceState,
    at_first_row,
    have_one_preference,
    taking_rows,
)

__all__ = [
    "AdapterConfig",
    "AdapterError",
    "PanaceaAdapter",
    "PreferenceState",
    "SoupLinear",
    "SvdLoraLinear",
    "at_first_row",
    "have_one_preference",
    "inject_adapter",
    "load_adapter",
    "load_soup",
    "taking_rows",
]
