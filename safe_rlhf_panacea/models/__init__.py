"""Language models and score models."""

from safe_rlhf_panacea.models.auto import AutoModelForScore
from safe_rlhf_panacea.models.normalizer import Normalizer
from safe_rlhf_panacea.models.pretrained import load_pretrained_models
from safe_rlhf_panacea.models.score_model import ScoreModel, ScoreModelOutput

__all__ = [
    "AutoModelForScore",
    "Normalizer",
    "ScoreModel",
    "ScoreModelOutput",
    "load_pretrained_models",
]
