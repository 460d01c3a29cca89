"""Folders that earlier versions wrote are read; the dictionaries here are as they wrote them."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.fronts.comparison import compare
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.fronts.results import checked, read_result
from safe_rlhf_panacea.fronts.run_locations import parse_run
from safe_rlhf_panacea.fronts.runs import read_run
from safe_rlhf_panacea.fronts.upgrade import upgrade_arm
from safe_rlhf_panacea.io import atomic_write_json

POINTS = [
    {"preference": [0.0, 1.0], "objectives": [0.5, 2.0], "standard_errors": [0.1, 0.1]},
    {"preference": [1.0, 0.0], "objectives": [2.0, 0.5], "standard_errors": [0.2, 0.2]},
]
INDICATORS = {
    "front": POINTS,
    "reference_point": [0.0, 0.0],
    "hypervolume": 1.75,
    "inner_product": 2.0,
    "sparsity": 2.25,
    "spacing": 0.0,
    "dominated": 0,
    "spearman": [1.0, 1.0],
}
EVALUATION = {
    "format": 1,
    "kind": "reward",
    "label": "Panacea",
    "objectives": ["helpful", "harmless"],
    "axis_labels": ["helpful (mean reward)", "harmless (mean reward)"],
    **INDICATORS,
    "base": {"objectives": [0.1, 0.2], "standard_errors": [0.1, 0.1]},
    "metadata": {},
    "method": "panacea",
    "aggregation": "ls",
    "fixed_scaling": None,
    "step": None,
    "cost": {"training_seconds": 3.5, "stored_parameters": 10, "trained_models": 1},
}
WITHOUT_KL = [{**point, "kl": None, "kl_error": None} for point in POINTS]


def test_an_evaluation_of_format_1_lacks_only_the_kl(tmp_path):
    atomic_write_json(tmp_path / "front.json", EVALUATION)
    assert read_result(tmp_path) == {**EVALUATION, "format": 2, "front": WITHOUT_KL}


def test_a_training_kept_its_kl_beside_the_points(tmp_path):
    line = {
        **EVALUATION,
        "step": 7,
        "kl": [0.3, 0.2],
        "kl_errors": [0.01, 0.02],
        "distributions": [[[0.5], [2.0]], [[2.0], [0.5]]],
        "base_distributions": [[0.1], [0.2]],
        "responses": [],
        "singular_values": [{"matrix": "q_proj", "sigma": [0.1], "s": [0.2]}],
        "drawn": {"helpful": [1], "harmless": [1]},
        "seconds": 1.5,
    }
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (one,) = read_evaluations(tmp_path)
    found = [(point.kl, point.kl_error) for point in one.front.points]
    assert found == [(0.3, 0.01), (0.2, 0.02)]
    assert one.drawn == line["drawn"] and one.distributions == line["distributions"]
    assert not {"kl", "kl_errors"} & set(one.result)
    (run,) = read_run(parse_run(f"{tmp_path}@7"))
    assert run.front.points[1].kl == 0.2


def test_a_quickstart_kept_objectives_and_reference_point_beside_the_methods(tmp_path):
    method = {**INDICATORS, "train_seconds": 12.5}
    del method["reference_point"]
    experiment = {
        "reference_point": [-1.75, -1.25],
        "objectives": ["helpful", "harmless"],
        "panacea": method,
        "rewarded_soups": method,
    }
    atomic_write_json(
        tmp_path / "results.json",
        {"experiments": {"ppo": experiment, "dpo": experiment}, "seed": 42},
    )
    panacea, soups = read_run(parse_run(f"{tmp_path}:ppo"))
    assert (panacea.front.label, soups.front.label) == ("Panacea", "Rewarded Soups")
    assert panacea.reference_point == [-1.75, -1.25]
    assert panacea.axis_labels[0] == "helpful (mean reward in SFT std.)"
    assert panacea.result["front"] == WITHOUT_KL
    assert read_run(parse_run(f"{tmp_path}:dpo/panacea"))[0].kind == "accuracy"


@pytest.mark.parametrize(
    ("view", "kind", "point", "hypervolume"),
    [
        ("ppo/panacea/model", "reward", [-1.75, -1.25], 2.25 * 3.25 + 1.5 * 1.75),
        ("ppo/soups/true5", "true score", [-1.5, -2.0], 2.0 * 4.0 + 1.5 * 2.5),
        ("dpo/panacea/model", "accuracy", [0.25, 0.25], 0.25 * 1.75 + 1.5 * 0.25),
    ],
)
def test_an_arm_of_the_front_benchmark_was_its_points(view, kind, point, hypervolume):
    old = {"objectives": ["helpful", "harmless"], "points": POINTS, "label": view, "metadata": {}}
    result = checked("here", upgrade_arm(view, old))
    assert (result["kind"], result["reference_point"]) == (kind, point)
    assert result["hypervolume"] == pytest.approx(hypervolume)
    assert upgrade_arm(view, result) == result


def test_old_and_new_stand_beside_each_other(tmp_path):
    atomic_write_json(tmp_path / "old" / "front.json", EVALUATION)
    new = {**EVALUATION, "format": 2, "front": [{**p, "kl": 0.1, "kl_error": 0.0} for p in POINTS]}
    atomic_write_json(tmp_path / "new" / "front.json", new)
    runs = [run for name in ("old", "new") for run in read_run(parse_run(str(tmp_path / name)))]
    (difference,) = compare(runs).differences
    assert not difference.values.any()
