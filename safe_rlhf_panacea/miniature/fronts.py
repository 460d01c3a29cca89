"""Evaluates the miniature's policies: calibration of the rewards, PPO fronts, DPO fronts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset
from safe_rlhf_panacea.data.template import AUTO
from safe_rlhf_panacea.evaluation.loading import Method, read_member
from safe_rlhf_panacea.experiments.sizes import OBJECTIVES, reference_points
from safe_rlhf_panacea.forward.generation import SamplingConfig, sample
from safe_rlhf_panacea.fronts.measure import Policy
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.over_grid import Prompt, pad_left
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.miniature.true_scores import true_scores
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.rewards.calibration import calibration
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.spec import RewardSpec

EVALUATION_SEED = 20_000
Results = dict[str, FrontResult]  # by the kinds of reference_points()


def read_prompts(path: Path) -> list[str]:
    """The prompts of a JSONL file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


class Judge:
    """Evaluates policies with the miniature's reward models, which it loads once."""

    def __init__(self, miniature: Miniature) -> None:
        """Load the reward models and the SFT model's tokenizer."""
        self.miniature = miniature
        self.max_length = miniature.world.max_length
        model, self.tokenizer = self.fresh_policy()
        self.template = ChatTemplate.of(AUTO, self.tokenizer)
        stop_ids = self.template.stop_ids(model)
        specs = [RewardSpec(name, str(miniature.reward(name))) for name in OBJECTIVES]
        loading = RewardLoading(self.max_length)
        self.raw_rewards = load_rewards(specs, self.tokenizer, stop_ids, loading)
        self.config = SamplingConfig(
            max_length=self.max_length,
            eos_token_id=stop_ids,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def fresh_policy(self) -> tuple[Any, Any]:
        """The SFT model and its tokenizer."""
        return load_pretrained_models(
            str(self.miniature.sft), model_max_length=self.max_length, padding_side="left"
        )

    def rewards(self) -> RewardEnsemble:
        """The rewards, standardised by the calibration where there is one, as in PPO."""
        stats = self.miniature.calibration or [(0.0, 1.0)] * len(OBJECTIVES)
        specs = [
            replace(spec, scale=1 / std, shift=mean)
            for spec, (mean, std) in zip(self.raw_rewards.specs, stats, strict=True)
        ]
        return RewardEnsemble(specs, self.raw_rewards.scorers, self.raw_rewards.models)

    def calibrate(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each raw reward on responses of the SFT model."""
        settings = self.miniature.settings
        texts = read_prompts(self.miniature.world.file("prompts-train"))
        chosen = self.miniature.shuffled(texts, settings.calibration_prompts)
        model, _ = self.fresh_policy()
        prompts = [self.template.prompt_ids(text) for text in chosen]
        ids, mask = pad_left(prompts, self.tokenizer.pad_token_id)
        generator = torch.Generator().manual_seed(self.miniature.seed)
        sequences, attended = sample(model.eval(), ids, mask, self.config, generator)
        rewards = self.rewards()(Responses(sequences, attended, ids.size(1)))
        found = calibration(OBJECTIVES, rewards)
        return [(found[name]["mean"], found[name]["std"]) for name in OBJECTIVES]

    def method(self, folders: Path | Sequence[Path], name: str | None = None) -> Method:
        """The SFT model with one adapter, or with the adapters of a method such as soups."""
        folders = [folders] if isinstance(folders, Path) else folders
        model, _ = self.fresh_policy()
        return Method(model, [read_member(folder) for folder in folders], name)

    def results(
        self,
        algorithm: str,
        method: Method,
        grid: torch.Tensor,
        label: str = "",
        split: str = "eval",
    ) -> tuple[Results, Measurement]:
        """The fronts of a method trained with ``dpo`` or ``ppo``, and what they are made of.

        Responses are judged by the reward models and, as ``ppo_true_scores``, by the corpus.
        """
        policy = Policy(
            method.model,
            method.adapter,
            self.tokenizer,
            self.config,
            EVALUATION_SEED,
            progress=self.miniature.progress,
        )
        what = self._pairs() if algorithm == "dpo" else self._prompts(split)
        measured = method.measure(policy, grid, label=label, **what)
        views = {algorithm: measured}
        if algorithm == "ppo":
            views["ppo_true_scores"] = _with_true_scores(measured)
        units = {"ppo": "mean reward in SFT std."}
        origin = method.origin(label)
        found = {
            name: view.result(OBJECTIVES, origin, reference_points()[name], unit=units.get(name))
            for name, view in views.items()
        }
        return found, measured

    def _pairs(self) -> dict[str, Any]:
        """The pairs of a DPO front, as an argument of ``Method.measure``."""
        self.tokenizer.padding_side = "right"
        count, path = self.miniature.settings.eval_pairs, self.miniature.world.file("pairs-eval")
        return {
            "pairs": PreferenceDataset([f"pairs:{count}/-1:{path}"], self.tokenizer, OBJECTIVES)
        }

    def _prompts(self, split: str) -> dict[str, Any]:
        """Prompts of a split, ``eval`` or ``tune``, and rewards, as arguments of ``measure``."""
        world, settings = self.miniature.world, self.miniature.settings
        texts = read_prompts(world.file(f"prompts-{split}"))
        raw = self.miniature.shuffled(texts, settings.eval_prompts)
        prompts = [Prompt(text, self.template.prompt_ids(text)) for text in raw]
        return {"prompts": prompts * settings.eval_repeats, "rewards": self.rewards()}


def _with_true_scores(measured: Measurement) -> Measurement:
    """The same measurement with the corpus's own scores, which no model has seen, as rewards."""
    scores = [true_scores(measured.prompts, texts) for texts in measured.sampled.texts]
    rewards = torch.stack([torch.from_numpy(rows) for rows in scores])  # size = (N, P, 2)
    return replace(measured, sampled=replace(measured.sampled, rewards=rewards), kind="true score")
