"""The fronts of a small miniature against bands of eight other seeds.

The trainings of ``test_training.py`` see a constant that is wrong by one per cent. This sees a λ
that no longer does its work, whichever stage lost it: three minutes on two cores. With eight seeds
the band of PPO's hypervolume is 4.4 ± 1.8, so a few per cent of quality are not seen here
(``eval/front_benchmark.py`` trains many seeds). A correct program with another seed falls out in
one case of twenty.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
import torch
from scipy.stats import t

from safe_rlhf_panacea.experiments.table import OBJECTIVES, reference_points, settings
from safe_rlhf_panacea.preference import preference_grid

# Four updates to a rollout: with two, and 72 steps, one seed in five learnt no front with PPO, and
# bands from such seeds would have let anything pass.
SETTINGS = settings(
    "miniature", "quick", sft_steps=300, ppo_steps=120, update_iters=4, eval_interval=0
)
SEEDS = range(201, 209)
# Of the training that is held against the bands: none of SEEDS, and nothing was chosen on it.
SEED = 200
# How often a correct program, trained on another seed, falls out somewhere: at most this.
FALSE_ALARM = 0.05
# No half width is below the steps in which these move: one dominated point, two neighbours of
# eleven that change places in the ranking.
FLOORS = {"dominated": 1.0, "Spearman": 0.01}


def half_width(values, alpha):
    """Half the prediction interval of one further draw, t · s · √(1 + 1/n).

    t is the 1 - α/2 quantile of Student's distribution with n - 1 degrees of freedom, s the
    standard deviation (Hahn and Meeker, Statistical Intervals, section 4.8).
    """
    count = len(values)
    return float(t.ppf(1 - alpha / 2, count - 1)) * stdev(values) * math.sqrt(1 + 1 / count)


def front_numbers(front, reference_point):
    """The indicators of a front, and J of every λ and objective, by name.

    The extent of an objective is J_i where its weight is 1, minus J_i where it is 0.
    """
    summary = front.measured_from(reference_point).indicators
    numbers = {name: float(summary[name]) for name in ("hypervolume", "inner_product", "dominated")}
    for index, name in enumerate(front.objectives):
        numbers[f"Spearman of {name}"] = summary["spearman"][index]
        weights, values = front.preferences[:, index], front.values[:, index]
        ends = [values[weights == end].mean() for end in (1, 0)]
        numbers[f"extent of {name}"] = float(ends[0] - ends[1])
    for point in front.points:
        vector = ", ".join(f"{value:.3g}" for value in point.preference)
        for name, value in zip(front.objectives, point.objectives, strict=True):
            numbers[f"J_{name} at λ = ({vector})"] = value
    return numbers


def train_fronts(seed, root):
    """Corpus, SFT, rewards, Panacea-DPO and -PPO, and the numbers of their fronts."""
    from safe_rlhf_panacea.miniature.stages import Judge, Miniature

    root.mkdir(parents=True)
    miniature = Miniature(root=root, seed=seed, settings=SETTINGS, progress=False)
    miniature.build_world()
    miniature.train_sft()
    for objective in OBJECTIVES:
        miniature.train_reward(objective)
    judge = Judge(miniature)
    judge.calibrate()
    grid = preference_grid(len(OBJECTIVES), SETTINGS.grid_step)
    found = {}
    for name, steps in (("dpo", SETTINGS.dpo_steps), ("ppo", SETTINGS.ppo_steps)):
        folder = miniature.train_panacea(name, f"panacea-{name}", steps)
        results, _ = judge.results(name, judge.method(folder), grid)
        found[name] = front_numbers(results[name], reference_points()[name])
    return found


@pytest.mark.recorded
@pytest.mark.skipif(torch.cuda.is_available(), reason="the bands are of a CPU: hide the GPU")
@pytest.mark.timeout(7200)
def test_the_fronts_lie_in_the_bands_of_other_seeds(reference, tmp_path):
    def record():
        runs = [train_fronts(seed, tmp_path / f"seed-{seed}") for seed in SEEDS]
        measured = {
            algorithm: {name: [run[algorithm][name] for run in runs] for name in runs[0][algorithm]}
            for algorithm in runs[0]
        }
        return {"seeds": [*SEEDS], "settings": vars(SETTINGS), "measured": measured}

    values = reference("front.json", record)
    assert {name: vars(SETTINGS)[name] for name in values["settings"]} == values["settings"]
    assert SEED not in values["seeds"]
    recorded = values["measured"]
    alpha = FALSE_ALARM / sum(map(len, recorded.values()))  # Bonferroni's inequality
    fallen_out = []
    for algorithm, found in train_fronts(SEED, tmp_path / "run").items():
        assert set(found) == set(recorded[algorithm])
        for name, numbers in recorded[algorithm].items():
            floor = next((v for start, v in FLOORS.items() if name.startswith(start)), 0.0)
            allowed = max(half_width(numbers, alpha), floor)
            if not abs(found[name] - fmean(numbers)) <= allowed:
                fallen_out.append(
                    f"{algorithm}, {name}: {found[name]:.4g}, "
                    f"expected {fmean(numbers):.4g} ± {allowed:.4g}"
                )
    assert not fallen_out
