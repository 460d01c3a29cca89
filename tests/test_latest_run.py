"""``runs/latest``, the link to the newest run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs.run_folder import check_output_dir, point_latest, prepare_output_dir


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
