"""The preference simplex: vectors, samplers and grids; plain torch is enough for it."""

from safe_rlhf_panacea.preference.errors import PreferenceError
from safe_rlhf_panacea.preference.grids import default_grid, preference_grid
from safe_rlhf_panacea.preference.names import check_objective_names
from safe_rlhf_panacea.preference.samplers import PreferenceSampler, label_weights
from safe_rlhf_panacea.preference.vectors import (
    Preference,
    check_preference,
    format_preference,
    parse_preference,
    preference_text,
)

__all__ = [
    "Preference",
    "PreferenceError",
    "PreferenceSampler",
    "check_objective_names",
    "check_preference",
    "default_grid",
    "format_preference",
    "label_weights",
    "parse_preference",
    "preference_grid",
    "preference_text",
]
