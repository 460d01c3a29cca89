"""What may be compared, and what is said of everything else."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.compare import compare
from safe_rlhf_panacea.fronts.runs import parse_run, read_run
from safe_rlhf_panacea.io import atomic_write_json
from tests.eval.evaluations import front, write_evaluation, write_quickstart, write_training


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Runs of all kinds, whose names are relative to it."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("two", "other", "lr=1", "run@5", "a:b"):
        write_evaluation(root / name, 1.0)
    for name in ("a/ppo", "b/ppo", "dpo"):
        write_evaluation(root / name, 1.0, label="Panacea")
    write_evaluation(root / "named", 1.0, label="Panacea (dpo)")
    write_evaluation(root / "three", 1.0, m=3)
    write_evaluation(root / "turned", 1.0, objectives=["harmless", "helpful"])
    write_evaluation(root / "accuracy", 1.0, kind="accuracy")
    write_evaluation(root / "soups", 1.5, step=24)
    write_evaluation(root / "listed", 1.0)
    (root / "listed" / "run.json").write_text("[]")
    for name in ("run", "lr=1e-3/run"):
        write_training(root / name, {10: 1.0, 20: 2.0})
    write_quickstart(root / "quick", panacea=2.0, rewarded_soups=1.0)
    broken = {"experiments": {"ppo": {"panacea": {"format": 2}}}}
    atomic_write_json(root / "odd" / "results.json", broken)
    (root / "empty").mkdir()
    return root


@pytest.fixture(autouse=True)
def _there(world, monkeypatch):
    monkeypatch.chdir(world)


def read(*texts):
    return [run for text in texts for run in read_run(parse_run(text))]


def top(run):
    """The radius with which the front was written: J₁ where λ = (1, 0)."""
    return run.values[:, 0].max()


def refused(*texts, **options):
    with pytest.raises(UserError) as caught:
        compare(read(*texts), **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "radius", "label", "step", "file"),
    [
        ("soups", 1.5, "soups", 24, "front.json"),
        ("run", 2.0, "Panacea", 20, "results.json"),
        ("run@10", 1.0, "Panacea", 10, "evaluations.jsonl"),
        ("lr=1e-3/run@10", 1.0, "Panacea", 10, "evaluations.jsonl"),
        ("x=lr=1e-3/run@10", 1.0, "x", 10, "evaluations.jsonl"),
        ("quick:ppo_true_scores/rewarded_soups", 1.0, "Rewarded Soups", None, "results.json"),
        ("q=quick:dpo/panacea", 2.0, "q", None, "results.json"),
        # A folder's own signs are its name.
        ("lr=1", 1.0, "lr=1", None, "front.json"),
        ("run@5", 1.0, "run@5", None, "front.json"),
        ("a:b", 1.0, "a:b", None, "front.json"),
    ],
)
def test_a_run_by_its_name(text, radius, label, step, file):
    (run,) = read(text)
    assert (top(run), run.label, run.step) == (radius, label, step)
    assert run.file == file and run.location.text == text


def test_a_quickstarts_experiment_has_all_its_methods():
    panacea, soups = read("quick:ppo")
    assert [(top(run), run.label) for run in (panacea, soups)] == [
        (2.0, "Panacea"),
        (1.0, "Rewarded Soups"),
    ]
    assert (soups.kind, soups.method) == ("reward", "rewarded_soups")
    assert soups.reference_point == (-1.0, -2.0)
    assert [read(f"quick:{name}")[0].kind for name in ("dpo", "ppo_true_scores")] == [
        "accuracy",
        "true score",
    ]


def test_a_resumed_runs_later_evaluation_counts(tmp_path):
    folder = tmp_path / "run"
    write_training(folder, {10: 1.0})
    line = json.loads((folder / "evaluations.jsonl").read_text())
    line["front"][2]["objectives"][0] = 7.0
    with open(folder / "evaluations.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    assert top(read(f"{folder}@10")[0]) == 7.0
    (folder / "evaluations.jsonl").unlink()  # results.json has its step too
    assert top(read(f"{folder}@10")[0]) == 1.0
    assert "results.json has no evaluation at step 20; steps: 10" in refused(f"{folder}@20")


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ("first\u00a0try=two soups", ["first\u00a0try", "soups"]),
        ("q=quick:ppo", ["q – Panacea", "q – Rewarded Soups"]),
        # Equal ones are told apart by folder and step.
        ("a/ppo dpo", ["Panacea (ppo)", "Panacea (dpo)"]),
        ("a/ppo b/ppo", ["Panacea (a)", "Panacea (b)"]),
        ("run@10 run@20", ["Panacea (run@10)", "Panacea (run@20)"]),
    ],
)
def test_labels_of_a_comparison(texts, labels):
    compared = compare(read(*texts.split(" ")))
    assert [run.label for run in compared.runs] == labels


def test_fronts_in_memory_stand_beside_each_other_too():
    compared = compare([front(1.0, label="one"), front(2.0, label="two")])
    assert [(run.label, run.run) for run in compared.runs] == [("one", None), ("two", None)]
    with pytest.raises(UserError, match="two fronts are called one: give them other labels"):
        compare([front(1.0, label="one"), front(2.0, label="one")])


CHOICES = ":dpo or :dpo/panacea|rewarded_soups, :ppo or"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["two"], ["two or more"]),
        (["two", "three"], ["three has objectives helpful, harmless, concise"]),
        (["two", "turned"], ["objectives harmless, helpful"]),
        (["two", "accuracy"], ["accuracy has kind accuracy"]),
        (["quick:ppo", "quick:ppo_true_scores"], ["kind true score"]),
        (["a/ppo", "b/ppo", "b/ppo"], ["b/ppo is given twice"]),
        (["quick:ppo", "quick:ppo/panacea"], ["quick:ppo is given twice"]),
        (["a/ppo", "dpo", "named"], ["two runs are called Panacea (dpo)"]),
        (["x=nowhere"], ["'x=nowhere': no such folder"]),
        (["\udcff=two"], ["is not UTF-8 text"]),
        (["empty"], ["holds no front (front.json or results.json)"]),
        (["empty@3"], ["holds no evaluations.jsonl"]),
        (["two:ppo"], ["holds no quickstart to choose from"]),
        (["run@15"], ["has no evaluation at step 15; steps: 10, 20"]),
        (["quick@3"], ["has no steps"]),
        (["quick"], [CHOICES, "several fronts"]),
        (["quick:sft"], [CHOICES, "has no sft"]),
        (["quick:ppo/dpo"], [CHOICES, "has no ppo/dpo"]),
        (["listed"], ["run.json: no record"]),
        (["odd:ppo"], ["odd/results.json: ppo/panacea: kind: Field required"]),
    ],
)
def test_what_is_refused(texts, words):
    message = refused(*texts)
    assert all(text in message for text in words) and "\n" not in message


def test_a_reference_point_and_a_baseline_must_fit():
    for point in ([0.0], [0.0, float("nan")]):
        assert "needs 2 finite numbers" in refused("two", "other", reference_point=point)
    found = refused("two", "other", baseline="c")
    assert found == "--baseline c: no such run; there are two, other"
