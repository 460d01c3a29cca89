"""The main job end to end: from nothing to two Pareto fronts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import package_versions
from safe_rlhf_panacea.evaluation.front import Front
from safe_rlhf_panacea.evaluation.indicators import summarize
from safe_rlhf_panacea.evaluation.reward_front import Response
from safe_rlhf_panacea.experiments.settings import (
    OBJECTIVES,
    REASONS,
    REFERENCE_POINTS,
    MiniatureSettings,
)
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.miniature.fronts import Judge, true_front
from safe_rlhf_panacea.miniature.severity_table import severity_table
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.preference import preference_grid


class Stopwatch:
    """Wall seconds per stage, announced as they begin."""

    def __init__(self, total_stages: int) -> None:
        """Count the stages from one."""
        self.seconds: dict[str, float] = {}
        self.total = total_stages

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Time a stage and say what it is."""
        print(f"\n[{len(self.seconds) + 1}/{self.total}] {text}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def experiment(
    fronts: dict[str, Front], reference: tuple[float, ...], seconds: dict[str, float]
) -> dict[str, Any]:
    """One experiment's part of the results file: raw points and indicators per method."""
    entry: dict[str, Any] = {"reference_point": list(reference), "objectives": list(OBJECTIVES)}
    for method, front in fronts.items():
        entry[method] = {**summarize(front, list(reference)), "train_seconds": seconds[method]}
    return entry


class Pipeline:
    """Runs the stages in order and collects what they give."""

    STAGES = 9

    def __init__(self, miniature: Miniature) -> None:
        """Take the run; nothing is written yet."""
        self.miniature = miniature
        self.settings: MiniatureSettings = miniature.settings
        self.watch = Stopwatch(self.STAGES)
        self.grid = preference_grid(len(OBJECTIVES), self.settings.grid_step)
        self.fronts: dict[str, dict[str, Front]] = {}
        self.responses: list[Response] = []

    def prepare(self) -> None:
        """Corpus, SFT model, reward models."""
        with self.watch.stage("world", "Writing the corpus and an untrained model"):
            self.miniature.build_world()
        with self.watch.stage("sft", "Supervised fine-tuning"):
            self.miniature.train_sft()
        with self.watch.stage("rewards", "Training one reward model per objective"):
            self.miniature.train_rewards()
            self.judge = Judge(self.miniature)
            self.miniature.calibrate(self.judge.calibrate())

    def train_both(self, algorithm: str, steps: int) -> tuple[Path, list[Path]]:
        """Panacea, and soups with the same number of training steps in all."""
        name = algorithm.upper()
        with self.watch.stage(f"panacea_{algorithm}", f"Panacea with {name}, {steps} steps"):
            panacea = self.miniature.train_panacea(algorithm, f"panacea-{algorithm}", steps)
        each = steps // len(OBJECTIVES)
        text = f"Rewarded Soups with {name}, {len(OBJECTIVES)} × {each} steps"
        with self.watch.stage(f"soups_{algorithm}", text):
            soup = self.miniature.train_soup(algorithm, f"soups-{algorithm}", each)
        return panacea, soup

    def dpo(self) -> None:
        """Train and evaluate with DPO."""
        panacea, soup = self.train_both("dpo", self.settings.dpo_steps)
        with self.watch.stage("evaluate_dpo", "Evaluating the DPO fronts"):
            self.fronts["dpo"] = self._evaluate(panacea, soup, self.judge.accuracy_front)

    def ppo(self) -> None:
        """Train and evaluate with PPO."""
        panacea, soup = self.train_both("ppo", self.settings.ppo_steps)
        responses: dict[str, list[Response]] = {}

        def evaluate(model: Any, adapter: Any, grid: Any, label: str) -> Front:
            front, responses[label] = self.judge.reward_front(model, adapter, grid, label)
            return front

        with self.watch.stage("evaluate_ppo", "Evaluating the PPO fronts"):
            self.fronts["ppo"] = self._evaluate(panacea, soup, evaluate)
        self.fronts["ppo_true_scores"] = {
            method: true_front(responses[front.label], front)
            for method, front in self.fronts["ppo"].items()
        }
        self.responses = responses["Panacea"]

    def _evaluate(
        self, panacea: Path, soup: list[Path], evaluate: Callable[..., Front]
    ) -> dict[str, Front]:
        model, adapter = self.judge.panacea(panacea)
        soup_model, soup_adapter = self.judge.soup(soup)
        return {
            "panacea": evaluate(model, adapter, self.grid, "Panacea"),
            "rewarded_soups": evaluate(soup_model, soup_adapter, self.grid, "Rewarded Soups"),
        }

    def results(self) -> dict[str, Any]:
        """What goes into ``results.json``."""
        seconds = self.watch.seconds
        return {
            "experiments": {
                name: experiment(
                    fronts,
                    REFERENCE_POINTS[name],
                    {
                        "panacea": seconds[f"panacea_{name[:3]}"],
                        "rewarded_soups": seconds[f"soups_{name[:3]}"],
                    },
                )
                for name, fronts in self.fronts.items()
            },
            "severity_table": severity_table(
                [(r.prompt, r.response, r.preference) for r in self.responses]
            ),
            "calibration": dict(zip(OBJECTIVES, self.miniature.calibration, strict=True)),
            "settings": vars(self.settings),
            "departures_from_the_paper": list(REASONS),
            "seed": self.miniature.seed,
            "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
            "versions": package_versions(),
        }

    def run(self) -> dict[str, Any]:
        """All stages; returns and writes the results."""
        self.prepare()
        self.dpo()
        self.ppo()
        results = self.results()
        atomic_write_json(self.miniature.root / "results.json", results)
        return results
