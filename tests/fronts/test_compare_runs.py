"""What may be compared, and what is said of everything else."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.compare import compare
from safe_rlhf_panacea.fronts.runs import parse_run, read_run
from safe_rlhf_panacea.io import atomic_write_json
from tests.eval.evaluations import front, write_evaluation
from tests.fronts.runs import write_quickstart, write_training


def read(*texts):
    return [run for text in texts for run in read_run(parse_run(str(text)))]


def top(run):
    """The radius with which the front was written: J₁ where λ = (1, 0)."""
    return run.result.values[:, 0].max()


def refused(*texts, **options):
    with pytest.raises(UserError) as caught:
        compare(read(*texts), **options)
    return str(caught.value)


def labels(*texts):
    return [run.label for run in compare(read(*texts)).runs]


# -- the kinds of runs ---------------------------------------------------------------------


def test_an_evaluation_and_the_evaluations_of_a_training(tmp_path):
    (run,) = read(write_evaluation(tmp_path / "soups", 1.5, step=24))
    assert (top(run), run.result.label, run.result.step) == (1.5, "soups", 24)
    assert run.file == "front.json"
    folder = write_training(tmp_path / "run", {10: 1.0, 20: 2.0})
    (run,) = read(folder)
    assert (top(run), run.result.step, run.file) == (2.0, 20, "results.json")
    (run,) = read(f"{folder}@10")
    assert (top(run), run.result.step, run.file) == (1.0, 10, "evaluations.jsonl")
    assert "has no evaluation at step 15; steps: 10, 20" in refused(f"{folder}@15")


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


def test_a_quickstarts_experiment_has_all_its_methods(tmp_path):
    folder = write_quickstart(tmp_path / "quick", panacea=2.0, rewarded_soups=1.0)
    panacea, soups = read(f"{folder}:ppo")
    assert (top(panacea), panacea.result.label) == (2.0, "Panacea")
    assert (top(soups), soups.result.label) == (1.0, "Rewarded Soups")
    assert (soups.result.kind, soups.result.method) == ("reward", "rewarded_soups")
    assert soups.result.reference_point == (-1.0, -2.0)
    assert read(f"{folder}:dpo")[0].result.kind == "accuracy"
    (one,) = read(f"{folder}:ppo_true_scores/rewarded_soups")
    assert (top(one), one.result.kind) == (1.0, "true score")
    for choice in ("", ":sft", ":ppo/dpo"):
        message = refused(f"{folder}{choice}")
        assert ":dpo or :dpo/panacea|rewarded_soups, :ppo or" in message
        assert ("has no " + choice[1:] if choice else "several fronts") in message


def test_fronts_in_memory_stand_beside_each_other_too():
    compared = compare([front(1.0, label="one"), front(2.0, label="two")])
    assert [(run.label, run.run) for run in compared.runs] == [("one", None), ("two", None)]
    with pytest.raises(UserError, match="two fronts are called one: give them other labels"):
        compare([front(1.0, label="one"), front(2.0, label="one")])


# -- names ---------------------------------------------------------------------------------


def test_a_name_given_is_the_label(tmp_path):
    one, two = (write_evaluation(tmp_path / name, 1.0) for name in ("one", "two"))
    quick = write_quickstart(tmp_path / "quick", panacea=2.0, rewarded_soups=1.0)
    assert labels(f"first try={one}", two) == ["first try", "two"]
    assert labels(f"q={quick}:ppo") == ["q – Panacea", "q – Rewarded Soups"]
    assert labels(f"q={quick}:ppo/panacea", one) == ["q", "one"]


def test_equal_labels_are_told_apart_by_folder_and_step(tmp_path):
    paths = [tmp_path / name for name in ("a/ppo", "b/ppo", "dpo")]
    for path in paths:
        write_evaluation(path, 1.0, label="Panacea")
    assert labels(paths[0], paths[2]) == ["Panacea (ppo)", "Panacea (dpo)"]
    assert labels(paths[0], paths[1]) == ["Panacea (a)", "Panacea (b)"]
    run = write_training(tmp_path / "run", {10: 1.0, 20: 2.0})
    assert labels(f"{run}@10", f"{run}@20") == ["Panacea (run@10)", "Panacea (run@20)"]
    assert "b/ppo is given twice" in refused(paths[0], paths[1], paths[1])
    assert "a/../dpo is given twice" in refused(f"{tmp_path}/a/../dpo", paths[2])
    quick = write_quickstart(tmp_path / "quick", panacea=2.0, rewarded_soups=1.0)
    assert "quick:ppo is given twice" in refused(f"{quick}:ppo", f"{quick}:ppo/panacea")
    other = write_evaluation(tmp_path / "other", 1.0, label="Panacea (dpo)")
    assert "two runs are called Panacea (dpo)" in refused(paths[0], paths[2], other)


def test_a_folders_own_signs_are_its_name(tmp_path):
    for name in ("lr=1", "run@5", "a:b"):
        assert read(write_evaluation(tmp_path / name, 1.0))[0].location.label is None
    folder = write_training(tmp_path / "lr=1e-3" / "run", {10: 1.0, 20: 2.0})
    (run,) = read(f"{folder}@10")
    assert (run.location.label, run.result.step) == (None, 10)
    (run,) = read(f"x={folder}@10")
    assert (run.result.label, run.result.step) == ("x", 10)


# -- what does not go together ---------------------------------------------------------------


def test_objectives_and_kinds_must_agree(tmp_path):
    two = write_evaluation(tmp_path / "two", 1.0)
    three = write_evaluation(tmp_path / "three", 1.0, m=3)
    turned = write_evaluation(tmp_path / "turned", 1.0, objectives=["harmless", "helpful"])
    accuracy = write_evaluation(tmp_path / "accuracy", 1.0, kind="accuracy")
    assert "two or more" in refused(two)
    assert "three has objectives helpful, harmless, concise" in refused(two, three)
    assert "objectives harmless, helpful" in refused(two, turned)
    assert "accuracy has kind accuracy" in refused(two, accuracy)
    quick = write_quickstart(tmp_path / "quick", panacea=2.0)
    assert "kind true score" in refused(f"{quick}:ppo", f"{quick}:ppo_true_scores")
    other = write_evaluation(tmp_path / "other", 1.0)
    for point in ([0.0], [0.0, float("nan")]):
        assert "needs 2 finite numbers" in refused(two, other, reference_point=point)
    assert refused(two, other, baseline="c") == "--baseline c: no such run; there are two, other"


# -- files that are no fronts ------------------------------------------------------------------


def test_what_is_no_run_is_refused(tmp_path):
    write_evaluation(tmp_path / "a", 1.0)
    (tmp_path / "empty").mkdir()
    assert "'nowhere': no such folder" in refused("nowhere")
    assert "'x=nowhere': no such folder" in refused("x=nowhere")
    assert "'': no such folder" in refused("")
    assert "is not UTF-8 text" in refused(f"\udcff={tmp_path / 'a'}")
    assert "holds no front (front.json or results.json)" in refused(tmp_path / "empty")
    assert "holds no evaluations.jsonl" in refused(f"{tmp_path / 'empty'}@3")
    assert "is a file: give the folder" in refused(tmp_path / "a" / "front.json")
    assert "holds no quickstart to choose from" in refused(f"{tmp_path / 'a'}:ppo")
    quick = write_quickstart(tmp_path / "quick", panacea=1.0)
    assert "has no steps" in refused(f"{quick}@3")


def test_damaged_files_are_named_with_their_line(tmp_path):
    folder = tmp_path / "run"
    write_training(folder, {10: 1.0, 20: 2.0})
    lines = folder / "evaluations.jsonl"
    whole = lines.read_text()
    lines.write_text(whole[:-100] + "\n")
    assert f"{lines}:2: not valid JSON" in refused(f"{folder}@10")
    lines.write_text(whole[:-100])  # cut by an interruption: what stands before it counts
    assert "no evaluation at step 20; steps: 10" in refused(f"{folder}@20")
    lines.write_text(whole.splitlines()[0] + "\n[]\n")
    assert f"{lines}:2: not a result of this version" in refused(f"{folder}@10")
    lines.write_text(whole.replace('"step": 20', '"step": null'))
    assert f"{lines}:2: step must be a whole number" in refused(f"{folder}@10")
    (folder / "results.json").write_text("{\n")
    assert f"{folder / 'results.json'}:2: not valid JSON" in refused(folder)
    write_evaluation(tmp_path / "a", 1.0)
    (tmp_path / "a" / "run.json").write_text("[]")
    assert "run.json: not a record" in refused(tmp_path / "a")


def test_a_quickstart_of_another_shape_is_refused(tmp_path):
    file = tmp_path / "results.json"
    atomic_write_json(file, {"experiments": []})
    assert f"{file}: experiments must be named entries" in refused(f"{tmp_path}:ppo")
    atomic_write_json(file, {"experiments": {"ppo": {}}})
    assert "experiment ppo holds no front" in refused(f"{tmp_path}:ppo")
    atomic_write_json(file, {"experiments": {"ppo": {"panacea": {"format": 2}}}})
    assert f"{file}: ppo/panacea: kind: Field required" in refused(f"{tmp_path}:ppo")
