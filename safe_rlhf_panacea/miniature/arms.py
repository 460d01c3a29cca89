"""The arms of the front benchmark: Panacea, baselines and ablations on one prepared miniature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.run_record import RUN_FILE, is_finished, set_aside
from safe_rlhf_panacea.baselines.fixed_scaling import FACTORS
from safe_rlhf_panacea.evaluation.front import Front
from safe_rlhf_panacea.experiments.settings import OBJECTIVES
from safe_rlhf_panacea.miniature.fronts import Judge, true_front
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.preference import preference_grid

DISCRETE_STEP = 0.25  # five λ for m = 2

Fronts = dict[str, dict[str, Any]]


def prepare(miniature: Miniature) -> Judge:
    """Corpus, SFT model, reward models and their calibration; kept for all jobs of a seed."""
    miniature.build_world()
    _unless_finished(miniature.sft, miniature.train_sft)
    for objective in OBJECTIVES:
        _unless_finished(miniature.reward(objective), partial(miniature.train_reward, objective))
    judge = Judge(miniature)
    miniature.calibrate(judge.calibrate())
    return judge


def _unless_finished(folder: Path, train: Callable[[], None]) -> None:
    if (folder / RUN_FILE).exists() and not is_finished(folder):
        set_aside(folder)
    if not (folder / RUN_FILE).exists():
        train()


def select(front: Front, grid: torch.Tensor) -> Front:
    """The points of a front that lie on ``grid``, size = (N, m), in its order."""
    by_preference = {tuple(round(v, 6) for v in p.preference): p for p in front.points}
    keys = [tuple(row) for row in grid.double().round(decimals=6).tolist()]
    return dataclasses.replace(front, points=[by_preference[key] for key in keys])


class Arms:
    """Trains and evaluates arms; every result is named ``<algorithm>/<arm>/<view>``.

    Views: ``model`` (reward models, or accuracy for DPO) and ``true`` (the corpus's own
    scores, PPO only) on the full grid; ``model5`` and ``true5`` at the five λ of the discrete
    policies.
    """

    def __init__(self, miniature: Miniature, split: str = "eval") -> None:
        """Load the judges."""
        self.miniature = miniature
        self.judge = Judge(miniature)
        self.split = split
        self.grid = preference_grid(len(OBJECTIVES), miniature.settings.grid_step)
        self.five = preference_grid(len(OBJECTIVES), DISCRETE_STEP)
        self.results: Fronts = {}

    def _keep(self, name: str, front: Front) -> None:
        self.results[name] = front.to_dict()

    def evaluate(self, name: str, policy: tuple[Any, Any], *, five: bool = False) -> None:
        """Evaluate a policy on the full grid, and at the five λ if asked for, in one pass."""
        grid = torch.cat([self.grid, self.five]).unique(dim=0) if five else self.grid
        if name.startswith("dpo"):
            views = {"model": self.judge.accuracy_front(*policy, grid, name)}
        else:
            front, responses = self.judge.reward_front(*policy, grid, name, self.split)
            views = {"model": front, "true": true_front(responses, front)}
        for view, front in views.items():
            self._keep(f"{name}/{view}", select(front, self.grid))
            if five:
                self._keep(f"{name}/{view}5", select(front, self.five))

    def _steps(self, algorithm: str) -> int:
        settings = self.miniature.settings
        return settings.dpo_steps if algorithm == "dpo" else settings.ppo_steps

    def panacea(
        self, algorithm: str, arm: str, extra: Sequence[str] = (), *, five: bool = False
    ) -> None:
        """Panacea, with further flags for an ablation."""
        steps = self._steps(algorithm)
        folder = self.miniature.train_panacea(algorithm, f"{algorithm}-{arm}", steps, extra)
        self.evaluate(f"{algorithm}/{arm}", self.judge.panacea(folder), five=five)

    def soups(self, algorithm: str) -> None:
        """Rewarded Soups with Panacea's number of steps in all."""
        each = self._steps(algorithm) // len(OBJECTIVES)
        folders = self.miniature.train_soup(algorithm, f"{algorithm}-soups", each)
        self.evaluate(f"{algorithm}/soups", self.judge.soup(folders), five=True)

    def discrete(self, algorithm: str) -> None:
        """Discrete policies, each with as many steps as an ingredient of the soups."""
        each = self._steps(algorithm) // len(OBJECTIVES)
        folders = self.miniature.train_discrete(algorithm, f"{algorithm}-discrete", each, self.five)
        views: dict[str, list[Front]] = {}
        for folder, row in zip(folders, self.five, strict=True):
            for view, front in self._one_point(algorithm, folder, row.unsqueeze(0)).items():
                views.setdefault(view, []).append(front)
        for view, fronts in views.items():
            points = [front.points[0] for front in fronts]
            joined = Front(objectives=list(OBJECTIVES), points=points, label="Discrete policies")
            self._keep(f"{algorithm}/discrete/{view}5", joined)

    def _one_point(self, algorithm: str, folder: Path, at: torch.Tensor) -> dict[str, Front]:
        policy = self.judge.panacea(folder)
        if algorithm == "dpo":
            return {"model": self.judge.accuracy_front(*policy, at, folder.name)}
        front, responses = self.judge.reward_front(*policy, at, folder.name, self.split)
        return {"model": front, "true": true_front(responses, front)}


def _fixed(arms: Arms, algorithm: str) -> None:
    for value in FACTORS:
        arms.panacea(algorithm, f"fixed-{value:g}", ["--fixed_scaling", str(value)])


def _ablations(arms: Arms, algorithm: str) -> None:
    per_batch = ["--preference_scope", "batch", "--preference_sampler", "uniform"]
    arms.panacea(algorithm, "per-batch", per_batch)
    arms.panacea(algorithm, "tche", ["--aggregation", "tche"])


def _main(arms: Arms, algorithm: str) -> None:
    arms.panacea(algorithm, "panacea", five=True)
    arms.soups(algorithm)


JOBS: dict[str, Callable[[Arms], None]] = {
    "ppo-main": lambda arms: _main(arms, "ppo"),
    "dpo-main": lambda arms: _main(arms, "dpo"),
    "ppo-discrete": lambda arms: arms.discrete("ppo"),
    "ppo-ablations": lambda arms: _ablations(arms, "ppo"),
    "dpo-ablations": lambda arms: _ablations(arms, "dpo"),
    "dpo-discrete": lambda arms: arms.discrete("dpo"),
    "ppo-fixed": lambda arms: _fixed(arms, "ppo"),
    "dpo-fixed": lambda arms: _fixed(arms, "dpo"),
}


def run_job(miniature: Miniature, job: str, split: str = "eval") -> Fronts:
    """Run one job on a prepared miniature and return its fronts."""
    miniature.take_up()
    arms = Arms(miniature, split)
    JOBS[job](arms)
    return arms.results
