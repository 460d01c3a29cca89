"""Safe-RLHF's surface: trainers, data sets and models of the installed one, else of the port.

What is to run on a user's Safe-RLHF takes these names from here (``resolution.py`` says which is
underneath). They are looked up when they are first asked for, so that a command line is read
without torch. The hooked trainers have hooks for what Panacea brings itself; the port's are so,
and ``on_safe_rlhf`` adds the hooks to Safe-RLHF's.
"""

from importlib import import_module
from typing import Any

from safe_rlhf_panacea.base.resolution import Backend, backend

# name: where it is in Safe-RLHF, and where in this package
_SURFACE = {
    "AutoModelForScore": ("safe_rlhf.models", "models"),
    "DPOTrainer": ("safe_rlhf.algorithms.dpo", "base.dpo"),
    "PPOTrainer": ("safe_rlhf.algorithms.ppo", "base.ppo"),
    "PreferenceDataset": ("safe_rlhf.datasets", "data"),
    "PromptOnlyDataset": ("safe_rlhf.datasets", "data"),
    "RLTrainer": ("safe_rlhf.trainers", "base.rl"),
    "RawDataset": ("safe_rlhf.datasets", "data"),
    "ScoreModelOutput": ("safe_rlhf.models.score_model", "models"),
    "SupervisedDataset": ("safe_rlhf.datasets", "data"),
    "SupervisedTrainer": ("safe_rlhf.trainers", "base.supervised"),
    "TrainerBase": ("safe_rlhf.trainers.base", "base.trainer"),
    "load_pretrained_models": ("safe_rlhf.models", "models"),
}
# what Panacea is written against: the module of on_safe_rlhf, and the port's name and module
_HOOKED = {
    "HookedDPOTrainer": ("dpo", "DPOTrainer", "base.dpo"),
    "HookedPPOTrainer": ("ppo", "PPOTrainer", "base.ppo"),
    "LabelledPreferenceDataset": ("datasets", "PreferenceDataset", "data"),
}
__all__ = ["Backend", "backend", *_SURFACE, *_HOOKED]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """A name of Safe-RLHF's surface, from what is underneath."""
    if name in _SURFACE:
        theirs, ours = _SURFACE[name]
        theirs_name = ours_name = name
    elif name in _HOOKED:
        module, ours_name, ours = _HOOKED[name]
        theirs, theirs_name = f"safe_rlhf_panacea.on_safe_rlhf.{module}", name
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if backend().name == "safe_rlhf":
        return getattr(import_module(theirs), theirs_name)
    return getattr(import_module(f"safe_rlhf_panacea.{ours}"), ours_name)
