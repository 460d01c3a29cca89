"""Evaluating the miniature's policies: calibration, PPO fronts, DPO fronts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter, load_adapter, load_soup
from safe_rlhf_panacea.base.datasets import PreferenceDataset, format_prompt
from safe_rlhf_panacea.base.generation import SamplingConfig, sample
from safe_rlhf_panacea.base.models import AutoModelForScore, load_pretrained_models
from safe_rlhf_panacea.evaluation.accuracy_front import evaluate_accuracy_front
from safe_rlhf_panacea.evaluation.front import Front, FrontPoint
from safe_rlhf_panacea.evaluation.reward_front import (
    Response,
    encode_prompts,
    evaluate_reward_front,
)
from safe_rlhf_panacea.experiments.settings import OBJECTIVES
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.miniature.true_scores import true_scores
from safe_rlhf_panacea.rewards import RewardEnsemble, RewardSpec
from safe_rlhf_panacea.scorers import model_scorer

EVALUATION_SEED = 20_000


def read_prompts(path: Path) -> list[str]:
    """The prompts of a JSONL file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


class Judge:
    """The miniature's models, loaded once for all its evaluations."""

    def __init__(self, miniature: Miniature) -> None:
        """Load the reward models and the SFT model's tokenizer."""
        self.miniature = miniature
        self.max_length = miniature.world.max_length
        self.reward_models = [
            load_pretrained_models(
                str(miniature.reward(objective)),
                model_max_length=self.max_length,
                padding_side="right",
                auto_model_type=AutoModelForScore,
                auto_model_kwargs={"score_type": "reward"},
            )[0].eval()
            for objective in OBJECTIVES
        ]
        _, self.tokenizer = self.fresh_policy()
        self.config = SamplingConfig(
            max_length=self.max_length,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.pairs: PreferenceDataset | None = None

    def fresh_policy(self) -> tuple[Any, Any]:
        """The SFT model and its tokenizer."""
        return load_pretrained_models(
            str(self.miniature.sft), model_max_length=self.max_length, padding_side="left"
        )

    def rewards(self) -> RewardEnsemble:
        """The rewards as PPO sees them, standardised once calibrated."""
        stats = self.miniature.calibration or [(0.0, 1.0)] * len(OBJECTIVES)
        specs = [
            RewardSpec(name, str(self.miniature.reward(name)), scale=1 / std, shift=mean)
            for name, (mean, std) in zip(OBJECTIVES, stats, strict=True)
        ]
        return RewardEnsemble(specs, [model_scorer(model) for model in self.reward_models])

    def calibrate(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each raw reward on responses of the SFT model."""
        settings = self.miniature.settings
        texts = read_prompts(self.miniature.world.prompts_train)
        chosen = self.miniature.shuffled(texts, settings.calibration_prompts)
        model, _ = self.fresh_policy()
        ids, mask = encode_prompts(self.tokenizer, [format_prompt(text) for text in chosen])
        generator = torch.Generator().manual_seed(self.miniature.seed)
        sequences, attended = sample(model.eval(), ids, mask, self.config, generator)
        rewards = self.rewards()(sequences, attended, ids.size(1))
        return list(zip(rewards.mean(dim=0).tolist(), rewards.std(dim=0).tolist(), strict=True))

    # -- PPO ---------------------------------------------------------------------------

    def prompts(self, split: str) -> list[str]:
        """Raw prompts of the ``eval`` or the ``tune`` split."""
        world = self.miniature.world
        texts = read_prompts({"eval": world.prompts_eval, "tune": world.prompts_tune}[split])
        return self.miniature.shuffled(texts, self.miniature.settings.eval_prompts)

    def reward_front(
        self,
        model: Any,
        adapter: PanaceaAdapter | None,
        grid: torch.Tensor,
        label: str,
        split: str = "eval",
    ) -> tuple[Front, list[Response]]:
        """A PPO front under the reward models; every response carries its raw prompt."""
        raw = self.prompts(split) * self.miniature.settings.eval_repeats
        front, responses = evaluate_reward_front(
            model,
            adapter,
            self.tokenizer,
            self.rewards(),
            [format_prompt(text) for text in raw],
            grid,
            self.config,
            objectives=OBJECTIVES,
            seed=EVALUATION_SEED,
            label=label,
            progress=self.miniature.progress,
        )
        plain = {format_prompt(text): text for text in raw}
        return front, [
            Response(plain[r.prompt], r.response, r.preference, r.rewards) for r in responses
        ]

    # -- DPO ---------------------------------------------------------------------------

    def accuracy_front(
        self, model: Any, adapter: PanaceaAdapter, grid: torch.Tensor, label: str
    ) -> Front:
        """A DPO front on the evaluation pairs."""
        settings = self.miniature.settings
        if self.pairs is None:
            self.tokenizer.padding_side = "right"
            self.pairs = PreferenceDataset(
                [f"pairs:{settings.eval_pairs}/-1:{self.miniature.world.pairs_eval}"],
                tokenizer=self.tokenizer,
                objectives=OBJECTIVES,
            )
        return evaluate_accuracy_front(
            model, adapter, self.pairs, grid, label=label, progress=self.miniature.progress
        )

    # -- policies ----------------------------------------------------------------------

    def panacea(self, folder: Path) -> tuple[Any, PanaceaAdapter]:
        """The SFT model with a trained adapter."""
        model, _ = self.fresh_policy()
        return model, load_adapter(model, folder)

    def soup(self, folders: Sequence[Path]) -> tuple[Any, PanaceaAdapter]:
        """The SFT model with a soup of adapters."""
        model, _ = self.fresh_policy()
        return model, load_soup(model, folders, OBJECTIVES)


def true_front(responses: Sequence[Response], like: Front) -> Front:
    """The same responses under the corpus's own scores, which no model has seen."""
    scores = true_scores([r.prompt for r in responses], [r.response for r in responses])
    points = []
    for point in like.points:
        rows = [i for i, r in enumerate(responses) if list(r.preference) == list(point.preference)]
        values = scores[rows]
        errors = values.std(axis=0, ddof=1) / len(rows) ** 0.5
        points.append(FrontPoint(point.preference, values.mean(axis=0).tolist(), errors.tolist()))
    return Front(objectives=like.objectives, points=points, label=like.label, metadata={})
