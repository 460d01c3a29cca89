"""Panacea on Safe-RLHF: one language model that holds the whole Pareto front.

The public names are imported when they are first used, so that ``import safe_rlhf_panacea`` loads
no torch.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"]:  # Python is looking for the module of `python -m safe_rlhf_panacea...`
    from safe_rlhf_panacea.errors import tell_interruption

    sys.excepthook = tell_interruption

if TYPE_CHECKING:
    from safe_rlhf_panacea.adapter import AdapterConfig as AdapterConfig
    from safe_rlhf_panacea.adapter import inject_adapter as inject_adapter
    from safe_rlhf_panacea.adapter import load_adapter as load_adapter
    from safe_rlhf_panacea.aggregation import aggregate_losses as aggregate_losses
    from safe_rlhf_panacea.aggregation import aggregate_rewards as aggregate_rewards
    from safe_rlhf_panacea.api import PanaceaDPO as PanaceaDPO
    from safe_rlhf_panacea.api import PanaceaGRPO as PanaceaGRPO
    from safe_rlhf_panacea.api import PanaceaPPO as PanaceaPPO
    from safe_rlhf_panacea.api import PanaceaSFT as PanaceaSFT
    from safe_rlhf_panacea.api import RewardedSoups as RewardedSoups
    from safe_rlhf_panacea.api import RewardModel as RewardModel
    from safe_rlhf_panacea.configs.algorithms import DPOConfig as DPOConfig
    from safe_rlhf_panacea.configs.algorithms import GRPOConfig as GRPOConfig
    from safe_rlhf_panacea.configs.algorithms import PPOConfig as PPOConfig
    from safe_rlhf_panacea.configs.algorithms import RewardConfig as RewardConfig
    from safe_rlhf_panacea.configs.algorithms import SFTConfig as SFTConfig
    from safe_rlhf_panacea.errors import UserError as UserError
    from safe_rlhf_panacea.fronts.compare import FrontComparison as FrontComparison
    from safe_rlhf_panacea.fronts.result import FrontResult as FrontResult
    from safe_rlhf_panacea.models.loading import LoadedModel as LoadedModel
    from safe_rlhf_panacea.preference import parse_preference as parse_preference
    from safe_rlhf_panacea.preference import preference_grid as preference_grid
    from safe_rlhf_panacea.preference_sampler import PreferenceSampler as PreferenceSampler
    from safe_rlhf_panacea.respond import PanaceaModel as PanaceaModel

__version__ = "0.1.0"

# Module below this package to the public names that it has.
_NAMES = {
    "adapter": ("AdapterConfig", "inject_adapter", "load_adapter"),
    "aggregation": ("aggregate_losses", "aggregate_rewards"),
    "api": (
        *("PanaceaDPO", "PanaceaGRPO", "PanaceaPPO", "PanaceaSFT"),
        *("RewardModel", "RewardedSoups"),
    ),
    "configs.algorithms": ("DPOConfig", "GRPOConfig", "PPOConfig", "RewardConfig", "SFTConfig"),
    "errors": ("UserError",),
    "fronts.compare": ("FrontComparison",),
    "fronts.result": ("FrontResult",),
    "models.loading": ("LoadedModel",),
    "preference": ("parse_preference", "preference_grid"),
    "preference_sampler": ("PreferenceSampler",),
    "respond": ("PanaceaModel",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = tuple(_HOMES)


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *_HOMES})
