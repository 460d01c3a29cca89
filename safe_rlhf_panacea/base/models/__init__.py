"""Language models and score models."""

from safe_rlhf_panacea.base.models.auto import AutoModelForScore
from safe_rlhf_panacea.base.models.normalizer import Normalizer
from safe_rlhf_panacea.base.models.pretrained import load_pretrained_models
from safe_rlhf_panacea.base.models.score_model import ScoreModel
from safe_rlhf_panacea.base.models.score_output import ScoreModelOutput

__all__ = [
    "AutoModelForScore",
    "Normalizer",
    "ScoreModel",
    "ScoreModelOutput",
    "load_pretrained_models",
]
