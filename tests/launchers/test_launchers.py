"""The launchers as scripts: help, flags, errors, and short runs of the miniature."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.io import read_json
from tests.launchers.shell import BASH, dry_run, run

SHARED = {"common.sh", "ppo_flags.sh", "dpo_flags.sh", "grpo_flags.sh"}
LAUNCHERS = sorted(path.name for path in BASH.glob("*.sh") if path.name not in SHARED)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_says_what_it_does_what_it_needs_and_shows_an_example(launcher, tmp_path):
    result = run(launcher, "--help", cwd=tmp_path)
    assert result.returncode == 0
    for word in (f"usage: bash bash/{launcher}", "needs:", "example:"):
        assert word in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_last_flag_wins_and_is_named_as_a_change():
    report = dry_run("panacea_dpo.sh", "--lora_dim", "4", "--lora_dim=16", "--bf16", "false")
    assert report["hyperparameters"]["lora_dim"] == 16
    assert report["changed"] == {
        "lora_dim": {"launcher": 8, "now": 16},
        "bf16": {"launcher": True, "now": False},
    }
    assert report["command"].endswith("--lora_dim 4 --lora_dim=16 --bf16 false")


def test_the_miniature_keeps_what_is_not_a_size():
    report = dry_run("panacea_ppo.sh", "--size", "miniature")
    kept = ("kl_coeff", "clip_range_ratio", "clip_range_score", "lora_dim", "lora_scaling")
    assert not set(kept) & set(report["changed"])
    assert report["hyperparameters"]["lora_module_name"] == "layers."


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "medium"], "error: --size: invalid choice: 'medium' (choose from 'full', 'min"),
        (["--hostfile", "nowhere"], "error: --hostfile nowhere: no such file"),
        (["--num_gpus", "0"], "error: --num_gpus 0 is not a number of GPUs"),
        (["--runs"], "error: --runs: expected one argument"),
        (
            ["--dry_run", "--lora_dimm", "4"],
            "error: there is no flag --lora_dimm: did you mean --lora_dim",
        ),
    ],
)
def test_one_line_for_a_mistake(flags, message, tmp_path):
    result = run("panacea_dpo.sh", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_several_machines_go_through_deepspeeds_launcher(tmp_path):
    (tmp_path / "hosts").write_text("one slots=8\ntwo slots=8\n")
    report = dry_run("panacea_dpo.sh", "--hostfile", str(tmp_path / "hosts"), "--num_gpus", "4")
    start = f"-m deepspeed.launcher.runner --hostfile {tmp_path / 'hosts'} --num_gpus 4"
    assert start in report["command"]
    assert "--module safe_rlhf_panacea.algorithms.dpo" in report["command"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A miniature whose initial model has hardly been trained."""
    runs = tmp_path_factory.mktemp("runs")
    result = run("sft.sh", "--size", "miniature", "--runs", str(runs), "--max_steps", "1")
    assert result.returncode == 0, result.stderr
    return runs


def test_a_miniature_run_keeps_a_copy_of_its_launcher(runs):
    flags = ("--size", "miniature", "--runs", str(runs), "--max_steps", "1", "--seed", "7")
    result = run("panacea_dpo.sh", *flags, HF_TOKEN="a-secret-value")
    assert result.returncode == 0, result.stderr
    assert "logged offline" in result.stderr
    folder = runs / "panacea-dpo-ls"
    for name in ("panacea_dpo.sh", *SHARED):
        assert (folder / "launcher" / name).read_bytes() == (BASH / name).read_bytes()
    record = read_json(folder / "run.json")
    assert (record["args"]["seed"], record["args"]["lora_dim"]) == (7, 8)
    assert record["environment"]["WANDB_MODE"] == "offline"
    assert {"versions", "git", "finished_at"} <= set(record)
    texts = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    assert not any(b"a-secret-value" in text for text in texts)
    again = run("panacea_dpo.sh", *flags)
    assert again.returncode == 2
    assert "already holds a run" in again.stderr


def test_discrete_policies_go_on_one_by_one(runs):
    flags = ("--size", "miniature", "--runs", str(runs), "--max_steps", "1", "--grid_step", "0.5")
    assert run("discrete_policies_dpo.sh", *flags).returncode == 0
    folder = runs / "discrete-policies-dpo"
    assert {path.name for path in folder.iterdir()} == {"0_1", "0.5_0.5", "1_0"}
    (folder / "1_0" / "run.json").write_text(
        json.dumps({"args": {}, "versions": {}})  # begun and not finished
    )
    again = run("discrete_policies_dpo.sh", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done already") == 2
    assert (folder / "1_0.interrupted-1").is_dir()


def test_reproduction_says_what_is_left(runs, tmp_path):
    result = run("reproduce_paper.sh", "--dry_run", "--size", "miniature", "--runs", str(tmp_path))
    assert result.stdout.startswith("30 of 30 stages are left to do: sft reward-helpful")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "sft").write_text("1 seconds\n")
    result = run("reproduce_paper.sh", "--dry_run", "--size", "miniature", "--runs", str(tmp_path))
    assert result.stdout.startswith("29 of 30 stages are left to do: reward-helpful")
    one = ("--only", "sft", "--size", "miniature", "--runs", str(runs))
    assert run("reproduce_paper.sh", *one, "--max_steps", "1").returncode == 0
    assert (runs / "sft.interrupted-1").is_dir()  # nothing is overwritten
    assert (runs / "done" / "sft").exists()
    unknown = run("reproduce_paper.sh", "--only", "figure-9", "--size", "miniature")
    assert unknown.returncode == 2
    assert "error: --only figure-9: no such stage" in unknown.stderr


def test_the_reproductions_dry_run_reads_the_flags_as_its_trainings_do(tmp_path):
    flags = ("--dry_run", "--size", "miniature", "--runs", str(tmp_path), "--foo")
    result = run("reproduce_paper.sh", *flags)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no flag --foo")
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
