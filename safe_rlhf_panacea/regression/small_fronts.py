"""From nothing to the fronts of Panacea-PPO and Panacea-DPO on a small miniature, in numbers."""

from __future__ import annotations

import contextlib
from pathlib import Path

from safe_rlhf_panacea.experiments.settings import OBJECTIVES, REFERENCE_POINTS, MiniatureSettings
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.regression.port import prepare_port

Numbers = dict[str, dict[str, float]]


def train_fronts(seed: int, settings: MiniatureSettings, root: Path, *, progress: bool) -> Numbers:
    """Corpus, SFT, rewards, Panacea-DPO and -PPO, and their fronts; all numbers by algorithm."""
    from safe_rlhf_panacea.miniature.arms import prepare
    from safe_rlhf_panacea.miniature.stages import Miniature
    from safe_rlhf_panacea.preference import preference_grid

    prepare_port()
    root.mkdir(parents=True, exist_ok=True)
    miniature = Miniature(root=root, seed=seed, settings=settings, progress=progress)
    with open(root / "log.txt", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        judge = prepare(miniature)
        dpo = miniature.train_panacea("dpo", "panacea-dpo", settings.dpo_steps)
        ppo = miniature.train_panacea("ppo", "panacea-ppo", settings.ppo_steps)
        grid = preference_grid(len(OBJECTIVES), settings.grid_step)
        found: dict[str, FrontResult] = {}
        for name, folder in (("ppo", ppo), ("dpo", dpo)):
            results, _ = judge.results(name, judge.method(folder), grid)
            found[name] = results[name]
    return {name: front_numbers(front, name) for name, front in found.items()}


def front_numbers(front: FrontResult, algorithm: str) -> dict[str, float]:
    """The indicators of a front, and J of every λ and objective, by name.

    The extent of an objective is J_i where its weight is 1, minus J_i where it is 0.
    """
    summary = front.measured_from(REFERENCE_POINTS[algorithm]).indicators
    numbers = {name: float(summary[name]) for name in ("hypervolume", "inner_product", "dominated")}
    for name, value in zip(front.objectives, summary["spearman"], strict=True):
        numbers[f"Spearman of {name}"] = value
    weights, values = front.preferences, front.values
    for index, name in enumerate(front.objectives):
        ends = [values[weights[:, index] == end, index].mean() for end in (1, 0)]
        numbers[f"extent of {name}"] = float(ends[0] - ends[1])
    for point in front.points:
        vector = ", ".join(f"{value:.3g}" for value in point.preference)
        for name, value in zip(front.objectives, point.objectives, strict=True):
            numbers[f"J_{name} at λ = ({vector})"] = value
    return numbers
