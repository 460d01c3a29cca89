"""The runner: command lines from rows, what is left to do, and what an interruption left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.experiments.__main__ import main, make_room, read_flags, resolve
from safe_rlhf_panacea.experiments.runner import Reproduction, value_of
from safe_rlhf_panacea.experiments.table import DATA_VARIABLE, fill, stages_of

REPRODUCE, REAL_FRONTS = "reproduce_paper.sh", "real_fronts.sh"
MODULE = "safe_rlhf_panacea.algorithms.dpo"


def test_what_is_filled_in_is_one_word_and_a_list_as_many_as_it_has_entries():
    words = fill(
        ["{runs}/x", "--b", "{data}", "{data} d"], {"runs": "my {runs}", "data": ["a", "b c"]}
    )
    assert words == ["my {runs}/x", "--b", "a", "b c", "['a', 'b c'] d"]
    with pytest.raises(KeyError, match="dada"):
        fill(["{dada}/x"], {"data": "a"})


def test_the_last_value_counts():
    words = ["--seed", "1", "--x", "y", "--seed=2"]
    assert value_of("--seed", words, "42") == ("2", ["--x", "y"])
    assert value_of("--seed", ["--x", "--seeds", "3"], "42")[0] == "42"


def test_a_stage_for_every_checkpoint_in_the_order_of_steps(tmp_path):
    runs = tmp_path / "my runs"
    for step in (100, 24):
        (runs / f"panacea-ppo/checkpoints/adapter/step-{step}").mkdir(parents=True)
    for name in ("harmless", "helpful", "helpful.interrupted-1"):
        (runs / "rewarded-soups-ppo" / name).mkdir(parents=True)
    found = Reproduction(runs, "miniature")
    stages = {stage.name: stage for stage in found.stages(stages_of(REPRODUCE))}
    steps = [name for name in stages if "step" in name]
    assert steps == ["evaluation-panacea-ppo-step-24", "evaluation-panacea-ppo-step-100"]
    words = found.command(stages[steps[0]])
    folder = runs / "panacea-ppo/checkpoints/adapter/step-24"
    assert words[words.index("--adapter") + 1] == str(folder)
    assert words[words.index("--label") + 1] == "Panacea, step 24"
    words = found.command(stages["evaluation-rewarded-soups-ppo"])
    at = words.index("--adapter") + 1
    members = [runs / "rewarded-soups-ppo" / name for name in ("harmless", "helpful")]
    assert words[at : at + 3] == [*map(str, members), "--seed"]


def test_what_is_finished_is_skipped_and_what_the_paper_lacks_only_run_when_asked_for(
    tmp_path, capsys
):
    reproduction = Reproduction(tmp_path, "miniature")
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "run.json").write_text('{"finished_at": "now"}')
    reproduction.run(REPRODUCE, dry_run=True)
    listed = capsys.readouterr().out
    assert "29 of 30 stages are left to do: reward-helpful" in listed and "grpo" not in listed
    reproduction.run(REPRODUCE, only="evaluation-panacea-grpo", dry_run=True)
    assert capsys.readouterr().out.endswith("stages are left to do: evaluation-panacea-grpo\n")


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


def test_the_script_of_real_fronts_lists_what_is_left(tmp_path, capsys):
    main([REAL_FRONTS, "--", "--dry_run", "--runs", str(tmp_path)])
    count = len(stages_of(REAL_FRONTS))
    expected = f"{count} of {count} stages are left to do: pairs-31-panacea"
    assert expected in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--size", "miniature"), f"{REAL_FRONTS} has no --size miniature: take --size small"),
        (("--size", "full"), f"{REAL_FRONTS} has no --size full: take --size small"),
        (("--max_steps", "3"), "--max_steps: real_fronts.sh takes --seed only"),
        (("--need_eval", "true"), "--need_eval: real_fronts.sh takes --seed only"),
        (("--seed",), "--seed: expected one argument"),
    ],
)
def test_what_real_fronts_do_not_take(flags, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([REAL_FRONTS, "--", "--dry_run", "--runs", str(tmp_path), *flags])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {told}") and len(message.splitlines()) == 1


def test_real_fronts_do_not_mix_with_reproductions():
    real = read_flags(REAL_FRONTS, ["--seed", "3"])[1]
    assert (real.runs, real.size_name, real.values["seed"]) == (Path("runs/real"), "small", "3")
    assert read_flags(REPRODUCE, ["--size", "small"])[1].runs == Path("runs/small")


def test_a_missing_file_is_told_before_the_first_stage_and_only_of_stages_that_run(
    monkeypatch, tmp_path
):
    for split in ("train", "test"):
        (tmp_path / f"hh-helpful-harmless-{split}.jsonl.gz").touch()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    runs = Reproduction(tmp_path / "runs", "small")
    missing = tmp_path / "helpsteer2-pairs-train.jsonl.gz"
    with pytest.raises(UserError, match=f"^{missing} is missing: the stage helpsteer2-ls needs it"):
        runs.run(REAL_FRONTS)
    assert not (tmp_path / "runs").exists()
    done: list[str] = []
    monkeypatch.setattr(Reproduction, "go_on", lambda self, stage: done.append(stage.name))
    runs.run(REAL_FRONTS, only="pairs-31-soups")
    assert done == ["pairs-31-soups"]
    assert (tmp_path / "runs" / "done" / "pairs-31-soups").read_text() == "0 seconds\n"
