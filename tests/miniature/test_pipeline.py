"""The quickstart from start to end, a few steps of everything."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.export.card import find_front
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.miniature.__main__ import main
from safe_rlhf_panacea.miniature.corpus import EXAMPLES, topic_of
from safe_rlhf_panacea.records import read_examples


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "runs" / "smoke"
    main(["--smoke", "--output_dir", str(folder), "--wandb", "false", "--progress", "false"])
    return folder


def test_results_have_what_readers_of_the_file_rely_on(run):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert set(results["experiments"]) == {"ppo", "ppo_true_scores", "dpo", "dpo_log_sigmoid"}
    for experiment in results["experiments"].values():
        for method in ("panacea", "rewarded_soups"):
            entry = experiment[method]
            assert [point["preference"] for point in entry["front"]] == [[0, 1], [0.5, 0.5], [1, 0]]
            assert all(len(point["objectives"]) == 2 for point in entry["front"])
            assert entry["hypervolume"] >= 0
            assert len(entry["spearman"]) == 2
            assert entry["dominated"] in range(3)
            assert entry["cost"]["training_seconds"] > 0
            assert len(entry["reference_point"]) == 2
            assert all(point["kl_error"] >= 0 for point in entry["front"])
    assert results["versions"]["torch"]
    assert results["seconds"]["total"] > 0
    for name in ("front_ppo.png", "front_dpo.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    for name in ("panacea-ppo", "panacea-dpo", "soups-ppo/helpful", "soups-dpo/harmless"):
        assert (run / name / "adapter_model.safetensors").exists()
        assert (run / name / "metrics.jsonl").read_text(encoding="utf-8")


def test_the_end_is_answers_a_verdict_the_pictures_and_commands_that_run(run, monkeypatch, capsys):
    report = (run / "report.txt").read_text(encoding="utf-8")
    parts = ["at five preference vectors", "Verdict", "front_ppo.png", "Next:", "is a toy"]
    assert sorted(parts, key=report.index) == parts
    assert "share of refusals" in report
    experiments = json.loads((run / "results.json").read_text(encoding="utf-8"))["experiments"]
    ppo, soups = (experiments["ppo"][m]["hypervolume"] for m in ("panacea", "rewarded_soups"))
    assert f"Panacea-PPO {ppo:.2f}, Rewarded Soups {soups:.2f}: {ppo / soups:.2f} times" in report
    commands = [line.strip() for line in report.splitlines() if " -m safe_rlhf_panacea." in line]
    assert len(commands) == 3
    monkeypatch.setattr("builtins.input", lambda label: "/quit")
    for command in commands:
        python, flag, module, *flags = shlex.split(command)
        assert (Path(shutil.which(python)).absolute(), flag) == (Path(sys.executable), "-m")
        capsys.readouterr()
        import_module(f"{module}.__main__" if module.endswith("export") else module).main(flags)
        assert capsys.readouterr().out
    assert (run / "peft" / "adapter_config.json").is_file()


def test_the_newest_run_is_linked_and_says_what_it_can_be_asked(run):
    assert os.readlink(run.with_name("latest")) == "smoke"
    for name in ("panacea-ppo", "panacea-dpo"):
        examples = read_examples(run.with_name("latest") / name)
        assert "toy" in examples.note
        assert [topic_of(prompt).severity for prompt in examples.prompts] == [0, 0.35, 0.7, 1]


def test_the_dpo_adapter_has_a_front_for_page_card_and_comparison(run):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    points = results["experiments"]["dpo"]["panacea"]["front"]
    folder = run / "panacea-dpo"
    front = find_front(folder, read_config(folder).objectives)
    assert front.values.tolist() == [p["objectives"] for p in points]
    (evaluation,) = read_evaluations(folder)
    assert (evaluation.step, front.label) == (results["settings"]["dpo_steps"], "panacea-dpo")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"<summary>{EXAMPLES[0]}</summary>" in page
    assert not any(text in page for text in ("http-equiv", "The growing front", "log π"))


@pytest.mark.usefixtures("no_page")
def test_a_run_replaced_with_the_same_seed_differs_in_times_alone(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    flags = ["--overwrite", "--wandb", "false", "--progress", "false"]
    main(["--smoke", "--output_dir", str(again), *flags])
    one, other = (
        json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (run, again)
    )
    for results in (one, other):
        del results["seconds"]
        for experiment in results["experiments"].values():
            for method in ("panacea", "rewarded_soups"):
                del experiment[method]["cost"]["training_seconds"]
    assert one == other


def test_a_folder_that_holds_a_run_is_left_alone(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--smoke", "--output_dir", str(run)])
    assert stop.value.code == 2
    assert "already holds a run" in capsys.readouterr().err
