"""The one import point for Safe-RLHF's surface.

Everything outside this folder that needs a trainer, a data set or a model of Safe-RLHF's takes
it from here. Today every name comes from the port in this folder.
"""

from safe_rlhf_panacea.base.algorithms.dpo import DPOTrainer
from safe_rlhf_panacea.base.algorithms.ppo import PPOTrainer
from safe_rlhf_panacea.base.checkpoint import TrainingState
from safe_rlhf_panacea.base.datasets import (
    PreferenceDataset,
    PromptOnlyDataset,
    RawDataset,
    SupervisedDataset,
)
from safe_rlhf_panacea.base.distributed import (
    all_reduce_max,
    all_reduce_means,
    barrier,
    is_main_process,
)
from safe_rlhf_panacea.base.engine import gathered, init_eval_engine, unwrap
from safe_rlhf_panacea.base.log_probs import response_log_probs
from safe_rlhf_panacea.base.models import (
    AutoModelForScore,
    ScoreModelOutput,
    load_pretrained_models,
)
from safe_rlhf_panacea.base.trainers.rl import Batch, RLTrainer
from safe_rlhf_panacea.base.trainers.supervised import SupervisedTrainer

__all__ = [
    "AutoModelForScore",
    "Batch",
    "DPOTrainer",
    "PPOTrainer",
    "PreferenceDataset",
    "PromptOnlyDataset",
    "RLTrainer",
    "RawDataset",
    "ScoreModelOutput",
    "SupervisedDataset",
    "SupervisedTrainer",
    "TrainingState",
    "all_reduce_max",
    "all_reduce_means",
    "barrier",
    "gathered",
    "init_eval_engine",
    "is_main_process",
    "load_pretrained_models",
    "response_log_probs",
    "unwrap",
]
