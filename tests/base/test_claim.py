"""A training holds its folder, and what never began leaves nothing; the link to the newest run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs import run_folder
from safe_rlhf_panacea.runs.run_folder import (
    LOCK_FILE,
    check_free,
    check_output_dir,
    claim_folder,
    lock_folder,
    point_latest,
    prepare_output_dir,
    unlock_folder,
    withdraw_claim,
)
from safe_rlhf_panacea.runs.run_record import write_run_record

fcntl = pytest.importorskip("fcntl")
HOLDER = (
    "import fcntl, sys, time; file = open(sys.argv[1], 'ab'); "
    "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds ``tmp_path``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_held_until_its_process_is_killed(tmp_path, other):
    with pytest.raises(UserError, match="a run is under way in this folder") as refusal:
        lock_folder(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    other.kill()
    other.wait()
    lock_folder(tmp_path)
    lock_folder(tmp_path)  # this process holds it already
    unlock_folder(tmp_path)


def test_neither_a_second_resume_nor_an_overwriting_nor_a_fresh_run(tmp_path, other):
    with pytest.raises(UserError, match="under way"):
        claim_folder(tmp_path)
    write_run_record(tmp_path, {})
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="under way"):
            check_free(tmp_path, **how)
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize("missing", ["module", "file system"])
def test_where_there_are_no_locks_the_run_goes_on(tmp_path, monkeypatch, missing):
    def none(*_):
        raise OSError(37, "No locks available")

    if missing == "module":
        monkeypatch.setattr(run_folder, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", none)
    claim_folder(tmp_path / "new")
    unlock_folder(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_held(folder):
    with (folder / LOCK_FILE).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_claim_is_held_and_withdrawn_leaves_nothing(tmp_path):
    folder = tmp_path / "runs" / "one"
    claim_folder(folder)
    assert is_held(folder)
    write_run_record(folder, {})
    (folder / "metrics.jsonl").write_text("{}\n")
    withdraw_claim(folder)
    assert names(tmp_path) == set()
    claim_folder(folder)
    unlock_folder(folder)
    assert not is_held(folder)


def test_a_withdrawn_claim_leaves_what_was_there(tmp_path):
    for name in ("metrics.jsonl", "notes.txt"):
        (tmp_path / name).write_text("mine")
    claim_folder(tmp_path)
    write_run_record(tmp_path, {})
    withdraw_claim(tmp_path)
    assert names(tmp_path) - {LOCK_FILE} == {"metrics.jsonl", "notes.txt"}
    claim_folder(tmp_path)  # free again
    unlock_folder(tmp_path)


def test_a_resumed_run_is_never_withdrawn(tmp_path):
    write_run_record(tmp_path, {})
    claim_folder(tmp_path, resume=True)
    withdraw_claim(tmp_path)
    assert "run.json" in names(tmp_path)
    unlock_folder(tmp_path)


def make_run(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def test_the_link_is_relative_and_moves_to_the_newest_run(tmp_path, monkeypatch):
    link = tmp_path / "runs" / "latest"
    for name in ("first", "second"):
        point_latest(make_run(tmp_path / "runs" / name))
        assert os.readlink(link) == name
    monkeypatch.chdir(tmp_path)
    point_latest("runs/first")
    assert os.readlink(link) == "first"
    assert sorted(os.listdir("runs")) == ["first", "latest", "second"]


def test_nothing_of_the_users_is_replaced_and_nothing_made_elsewhere(tmp_path):
    own = make_run(tmp_path / "runs" / "latest")
    point_latest(make_run(tmp_path / "runs" / "other"))
    point_latest(own)
    point_latest(make_run(tmp_path / "elsewhere" / "run"))
    assert not own.is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("latest")) == ["latest"]


@pytest.mark.parametrize("error", [OSError("no links"), NotImplementedError()])
def test_where_links_cannot_be_made_there_is_none(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run = make_run(tmp_path / "runs" / "run")
    point_latest(run)
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_run_is_not_deleted_through_the_link(tmp_path):
    run = make_run(tmp_path / "runs" / "run")
    point_latest(run)
    with pytest.raises(UserError, match="link to the newest run, run: "):
        prepare_output_dir(run.with_name("latest"), overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "run.json"]
    check_output_dir(run, overwrite=True)
    check_output_dir(run.with_name("latest") / "front", overwrite=True)
