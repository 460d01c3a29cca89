"""The quickstart from start to end, a few steps of everything."""

from __future__ import annotations

import json
import shutil

import pytest

from safe_rlhf_panacea.miniature.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    main(["--smoke", "--output_dir", str(folder), "--wandb", "false", "--progress", "false"])
    return folder


def test_results_have_what_readers_of_the_file_rely_on(run):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert set(results["experiments"]) == {"ppo", "ppo_true_scores", "dpo"}
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


def test_pictures_adapters_logs_and_report_are_there(run):
    for name in ("front_ppo.png", "front_dpo.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    for name in ("panacea-ppo", "panacea-dpo", "soups-ppo/helpful", "soups-dpo/harmless"):
        assert (run / name / "adapter_model.safetensors").exists()
        assert (run / name / "metrics.jsonl").read_text(encoding="utf-8")
    report = (run / "report.txt").read_text(encoding="utf-8")
    assert "Rewarded Soups" in report
    assert "share of refusals" in report


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
