"""The runner: command lines from rows, what is left to do, and what an interruption left."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.dry_run import resolve
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.experiments.main import make_room, read_flags
from safe_rlhf_panacea.experiments.runner import Reproduction, fill, last_value
from safe_rlhf_panacea.experiments.sizes import sizes
from safe_rlhf_panacea.experiments.table import BEYOND, STAGES, TRAININGS

REPRODUCE = "reproduce_paper.sh"
MODULE = "safe_rlhf_panacea.algorithms.dpo"


def test_every_size_has_a_row_for_every_launcher_and_kind_of_evaluation():
    for size in sizes().values():
        launched = {stage.key for stage in (*TRAININGS, *BEYOND) if stage.launcher}
        assert launched <= set(size.flags)
        assert set(size.evaluations) >= {"ppo", "three", "dpo"}


def test_what_a_stage_needs_is_in_the_table():
    assert {name for stage in TRAININGS for name in stage.needs} <= set(STAGES)


def test_words_are_split_before_they_are_filled_in():
    assert fill("--a {runs}/x --b 'c d'", {"runs": "my runs"}) == ["--a", "my runs/x", "--b", "c d"]


def test_the_last_value_counts():
    assert last_value(["--seed", "1", "--x", "y", "--seed=2"], "--seed", "42") == "2"
    assert last_value(["--x", "--seeds", "3"], "--seed", "42") == "42"


def test_a_stage_for_every_checkpoint_in_the_order_of_steps(tmp_path):
    runs = tmp_path / "my runs"
    for step in (100, 24):
        (runs / f"panacea-ppo/checkpoints/adapter/step-{step}").mkdir(parents=True)
    for name in ("harmless", "helpful", "helpful.interrupted-1"):
        (runs / "rewarded-soups-ppo" / name).mkdir(parents=True)
    found = Reproduction(runs, "miniature")
    stages = {stage.name: stage for stage in found.stages()}
    steps = [name for name in stages if "step" in name]
    assert steps == ["evaluation-panacea-ppo-step-24", "evaluation-panacea-ppo-step-100"]
    words = found.command(stages[steps[0]])
    folder = runs / "panacea-ppo/checkpoints/adapter/step-24"
    assert words[words.index("--adapter") + 1] == str(folder)
    assert words[words.index("--label") + 1] == "Panacea, step 24"
    words = found.command(stages["evaluation-rewarded-soups-ppo"])
    at = words.index("--adapter") + 1
    members = [runs / "rewarded-soups-ppo" / name for name in ("harmless", "helpful")]
    assert words[at : at + 3] == [*map(str, members), "--datasets"]


def test_what_the_paper_does_not_have_is_run_only_when_asked_for(tmp_path, capsys):
    reproduction = Reproduction(tmp_path, "miniature")
    reproduction.run(REPRODUCE, dry_run=True)
    assert "grpo" not in capsys.readouterr().out
    reproduction.run(REPRODUCE, only="evaluation-panacea-grpo", dry_run=True)
    assert capsys.readouterr().out.endswith("stages are left to do: evaluation-panacea-grpo\n")


def test_what_is_finished_is_skipped_and_a_mistake_in_a_seed_is_told(tmp_path, capsys):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "run.json").write_text('{"finished_at": "now"}')
    Reproduction(tmp_path, "miniature").run(REPRODUCE, dry_run=True)
    assert "29 of 30 stages are left to do: reward-helpful" in capsys.readouterr().out
    with pytest.raises(UserError, match="--seed: expected one argument"):
        _ = read_flags("panacea_dpo.sh", ["--seed"])[1].values


@pytest.fixture
def interrupted(tmp_path):
    """A run with a whole checkpoint, and the flags that it was begun with."""
    folder = tmp_path / "run"
    flags = ["--model_name_or_path", "m", "--objectives", "a", "b", "--train_datasets", "d"]
    flags += ["--output_dir", str(folder), "--save_interval", "2"]
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "latest").write_text("step-2\n")
    (folder / "run.json").write_text(json.dumps({"args": resolve(MODULE, flags)[0]}))
    return folder, flags


def test_a_run_with_a_checkpoint_of_the_same_flags_is_resumed(interrupted):
    folder, flags = interrupted
    assert make_room(folder, MODULE, flags) == ["--resume"]
    assert folder.exists()


@pytest.mark.parametrize("what", ["other flags", "no checkpoint", "finished"])
def test_anything_else_is_renamed(interrupted, what):
    folder, flags = interrupted
    if what == "other flags":
        flags = [*flags, "--lr", "1"]
    elif what == "no checkpoint":
        (folder / "checkpoints" / "latest").unlink()
    else:
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "finished_at": "now"}))
    assert make_room(folder, MODULE, flags) == []
    assert not folder.exists()
    assert (folder.parent / "run.interrupted-1" / "run.json").exists()
    assert make_room(folder, MODULE, flags) == []  # nothing is there
