"""The one import point for Safe-RLHF's surface.

Everything that is to run on a user's Safe-RLHF takes trainers, data sets and models from here:
where ``safe_rlhf`` imports, from it, else from the port in this folder (``resolution.py`` says
which). Names are looked up when they are first asked for, so that what needs no trainer imports
none, and a command line is read without torch.

``Hooked...`` are the same trainers with hooks for what Panacea brings itself (reference, rewards,
critic). The port's have them; ``on_safe_rlhf`` adds them to Safe-RLHF's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from safe_rlhf_panacea.base.resolution import Backend, backend

if TYPE_CHECKING:  # the port's, which Safe-RLHF's agree with
    from safe_rlhf_panacea.base.dpo import DPOTrainer
    from safe_rlhf_panacea.base.dpo import DPOTrainer as HookedDPOTrainer
    from safe_rlhf_panacea.base.engine import gathered, init_eval_engine, unwrap
    from safe_rlhf_panacea.base.ppo import PPOTrainer
    from safe_rlhf_panacea.base.ppo import PPOTrainer as HookedPPOTrainer
    from safe_rlhf_panacea.base.rl import RLTrainer
    from safe_rlhf_panacea.base.supervised import SupervisedTrainer
    from safe_rlhf_panacea.base.trainer import TrainerBase
    from safe_rlhf_panacea.data import (
        PreferenceDataset,
        PromptOnlyDataset,
        RawDataset,
        SupervisedDataset,
    )
    from safe_rlhf_panacea.data import PreferenceDataset as LabelledPreferenceDataset
    from safe_rlhf_panacea.models import AutoModelForScore, ScoreModelOutput, load_pretrained_models
    from safe_rlhf_panacea.runs.checkpoint import TrainingState

Batch = dict[str, Any]

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
# what Panacea is written against: the place in on_safe_rlhf, and the port's name and
# place in this package
_HOOKED = {
    "HookedDPOTrainer": ("dpo", "DPOTrainer", "base.dpo"),
    "HookedPPOTrainer": ("ppo", "PPOTrainer", "base.ppo"),
    "LabelledPreferenceDataset": ("datasets", "PreferenceDataset", "data"),
}
# the same on both: the place in this package
_OURS = {
    "TrainingState": "runs.checkpoint",
    "all_reduce_max": "distributed",
    "all_reduce_means": "distributed",
    "all_reduce_sum": "distributed",
    "barrier": "distributed",
    "gathered": "base.engine",
    "init_eval_engine": "base.engine",
    "is_main_process": "distributed",
    "unwrap": "base.engine",
}

__all__ = [
    "AutoModelForScore",
    "Backend",
    "Batch",
    "DPOTrainer",
    "HookedDPOTrainer",
    "HookedPPOTrainer",
    "LabelledPreferenceDataset",
    "PPOTrainer",
    "PreferenceDataset",
    "PromptOnlyDataset",
    "RLTrainer",
    "RawDataset",
    "ScoreModelOutput",
    "SupervisedDataset",
    "SupervisedTrainer",
    "TrainerBase",
    "TrainingState",
    "all_reduce_max",
    "all_reduce_means",
    "all_reduce_sum",
    "backend",
    "barrier",
    "gathered",
    "init_eval_engine",
    "is_main_process",
    "load_pretrained_models",
    "unwrap",
]


def __getattr__(name: str) -> Any:
    """A name of Safe-RLHF's surface, from the backend, or one that both have."""
    if name in _OURS:
        return getattr(import_module(f"safe_rlhf_panacea.{_OURS[name]}"), name)
    if name in _SURFACE:
        theirs, ours = _SURFACE[name]
        found = theirs if backend().name == "safe_rlhf" else f"safe_rlhf_panacea.{ours}"
        return getattr(import_module(found), name)
    if name in _HOOKED:
        theirs, port_name, ours = _HOOKED[name]
        if backend().name == "safe_rlhf":
            return getattr(import_module(f"safe_rlhf_panacea.on_safe_rlhf.{theirs}"), name)
        return getattr(import_module(f"safe_rlhf_panacea.{ours}"), port_name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
