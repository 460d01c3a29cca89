"""Safe-RLHF's surface: trainers, data sets and models of the installed one, else of the port.

What is to run on a user's Safe-RLHF takes these names from here (``resolution.py`` says which is
underneath). They are looked up when they are first asked for, so that a command line is read
without torch. ``HookedDPOTrainer`` and ``HookedPPOTrainer`` are the same trainers with hooks for
what Panacea brings itself; the port's have them, ``on_safe_rlhf`` adds them to Safe-RLHF's.
Everything else in this folder is imported from its own module.
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
    if name not in _SURFACE and name not in _HOOKED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    on_theirs = backend().name == "safe_rlhf"
    if name in _SURFACE:
        theirs, ours = _SURFACE[name]
        return getattr(import_module(theirs if on_theirs else f"safe_rlhf_panacea.{ours}"), name)
    theirs, port_name, ours = _HOOKED[name]
    if on_theirs:
        return getattr(import_module(f"safe_rlhf_panacea.on_safe_rlhf.{theirs}"), name)
    return getattr(import_module(f"safe_rlhf_panacea.{ours}"), port_name)
