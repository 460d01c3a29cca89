"""The arms of the front benchmark: Panacea, baselines and ablations on one prepared miniature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.baselines.fixed_scaling import FACTORS
from safe_rlhf_panacea.evaluation.loading import Method
from safe_rlhf_panacea.experiments.sizes import OBJECTIVES
from safe_rlhf_panacea.miniature.fronts import Judge, Results
from safe_rlhf_panacea.miniature.report import severity_table
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.runs.run_folder import RUN_FILE, is_finished, set_aside

DISCRETE_STEP = 0.25  # five λ for m = 2


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
        self.results: Results = {}
        self.severity: list[dict[str, Any]] = []  # of Panacea-PPO's answers

    def evaluate(self, name: str, method: Method, *, five: bool = False) -> None:
        """Evaluate on the full grid, and at the five λ if asked for, in one pass."""
        grid = torch.cat([self.grid, self.five]).unique(dim=0) if five else self.grid
        for view, result in self._views(name, method, grid).items():
            self.results[f"{name}/{view}"] = result.at(self.grid)
            if five:
                self.results[f"{name}/{view}5"] = result.at(self.five)

    def _views(self, name: str, method: Method, grid: torch.Tensor) -> Results:
        algorithm = name.partition("/")[0]
        found, measured = self.judge.results(algorithm, method, grid, name, self.split)
        if name == "ppo/panacea":
            rows = measured.responses()
            keys = ("prompt", "response", "preference")
            self.severity = severity_table([tuple(row[key] for key in keys) for row in rows])
        return dict(zip(("model", "true"), found.values(), strict=False))

    def _steps(self, algorithm: str) -> int:
        settings = self.miniature.settings
        return settings.dpo_steps if algorithm == "dpo" else settings.ppo_steps

    def panacea(
        self, algorithm: str, arm: str, extra: Sequence[str] = (), *, five: bool = False
    ) -> None:
        """Panacea, with further flags for an ablation."""
        steps = self._steps(algorithm)
        folder = self.miniature.train_panacea(algorithm, f"{algorithm}-{arm}", steps, extra)
        self.evaluate(f"{algorithm}/{arm}", self.judge.method(folder), five=five)

    def soups(self, algorithm: str) -> None:
        """Rewarded Soups with Panacea's number of steps in all."""
        each = self._steps(algorithm) // len(OBJECTIVES)
        folders = self.miniature.train_soup(algorithm, f"{algorithm}-soups", each)
        self.evaluate(f"{algorithm}/soups", self.judge.method(folders, "rewarded_soups"), five=True)

    def discrete(self, algorithm: str) -> None:
        """Discrete policies, each with as many steps as an ingredient of the soups."""
        each = self._steps(algorithm) // len(OBJECTIVES)
        folders = self.miniature.train_discrete(algorithm, f"{algorithm}-discrete", each, self.five)
        method = self.judge.method(folders, "discrete_policies")
        for view, result in self._views(f"{algorithm}/discrete", method, self.five).items():
            self.results[f"{algorithm}/discrete/{view}5"] = result


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


def run_job(miniature: Miniature, job: str, split: str = "eval") -> Arms:
    """Run one job on a prepared miniature; the arms hold its fronts."""
    miniature.take_up()
    arms = Arms(miniature, split)
    JOBS[job](arms)
    return arms
