"""Logs hold what they are given and nothing else; progress bars count on the main process."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs import logger as module
from safe_rlhf_panacea.runs.logger import Logger, progress_bar

SECRET = "hush-7b1d9f42c6"


def read_metrics(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def holds(folder: Path, text: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if text.encode() in path.read_bytes()]


def test_metrics_are_one_line_a_step(tmp_path):
    logger = Logger(None, log_dir=tmp_path / "new")
    logger.log({"train/loss": torch.tensor(0.5), "train/lr": 1e-3}, step=1)
    logger.log({"train/loss": float("nan"), "train/n": 3}, step=2)
    logger.log({}, step=3)
    logger.close()
    logger.close()
    assert read_metrics(tmp_path / "new") == [
        {"step": 1, "train/loss": 0.5, "train/lr": 1e-3},
        {"step": 2, "train/loss": "nan", "train/n": 3},
    ]


def test_a_full_disk_costs_a_line_and_not_the_run(tmp_path, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    logger = Logger("file", log_dir=tmp_path)
    logger.log({"a": 1}, step=1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "append_line", full)
        logger.log({"a": 2}, step=2)
    assert "step 2 is missing" in capsys.readouterr().out
    logger.log({"a": 3}, step=3)
    logger.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    logger = Logger("tensorboard", log_dir=tmp_path / "log")
    logger.log({"a": 1.0}, step=1)
    logger.print("hello")
    logger.close()
    assert not (tmp_path / "log").exists()
    assert capsys.readouterr().out == ""


def test_wandb_runs_offline_and_records_no_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 4)
    config = argparse.Namespace(lr=0.25, output_dir=tmp_path, hf_token=SECRET, pad_token_id=0)
    logger = Logger("wandb", tmp_path, "project", "run", config)
    logger.log({"train/loss": 0.123456789}, step=1)
    assert logger.wandb.offline
    assert logger.wandb.config["lr"] == 0.25
    assert logger.wandb.config["pad_token_id"] == 0
    assert "hf_token" not in logger.wandb.config.keys()  # noqa: SIM118
    logger.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert read_metrics(tmp_path) == [{"step": 1, "train/loss": 0.123456789}]
    assert holds(tmp_path, SECRET) == []


def test_tensorboard_gets_every_scalar(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("SOME_TOKEN", SECRET)
    logger = Logger("tensorboard", tmp_path)
    for step in (1, 2):
        logger.log({"train/loss": 0.5 * step}, step=step)
    logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5), (2, 1.0)]
    assert len(read_metrics(tmp_path)) == 2
    assert holds(tmp_path, SECRET) == []


def test_several_logs_at_once_and_trackio(tmp_path, monkeypatch):
    """The package is a stand-in; its arguments are those of trackio 0.43."""
    calls = []

    def init(project, name, config, resume, embed, auto_log_gpu, auto_log_cpu):
        assert not (embed or auto_log_gpu or auto_log_cpu)  # no server, no data on the machine
        calls.append((project, name, config, resume))
        return SimpleNamespace(
            log=lambda values, step: calls.append((step, values)),
            finish=lambda: calls.append("finish"),
        )

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    kinds = ["trackio", "tensorboard"]
    logger = Logger(kinds, log_dir=tmp_path, log_run_name="run", config={"lr": 1}, resume=True)
    logger.log({"train/loss": torch.tensor(0.5)}, step=3)
    logger.close()
    opened = ("safe-rlhf-panacea", "run", {"lr": 1}, "allow")
    assert calls == [opened, (3, {"train/loss": 0.5}), "finish"]
    assert read_metrics(tmp_path) == [{"step": 3, "train/loss": 0.5}]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_bars_count_and_are_shown_on_the_main_process_alone(capsys, monkeypatch):
    assert list(progress_bar(range(3), desc="Counting")) == [0, 1, 2]
    with progress_bar(total=5, desc="Training") as bar:
        bar.update(2)
    shown = capsys.readouterr()
    assert all(text in shown.err for text in ("Counting", "3/3", "2/5")) and shown.out == ""
    assert list(progress_bar(range(2), disable=True)) == [0, 1]
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    assert list(progress_bar(range(2))) == [0, 1]
    assert capsys.readouterr().err == ""


def test_bad_arguments(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)  # not installed
    with pytest.raises(UserError, match="log_type trackio needs the package trackio: pip install"):
        Logger(["tensorboard", "trackio"], log_dir=tmp_path)
    with pytest.raises(UserError, match="--report_to none wandb: none stands alone"):
        Logger(["none", "wandb"], log_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="log_type 'mlflow' is none of wandb, tensorboard"):
        Logger("mlflow", log_dir=tmp_path)
    with pytest.raises(UserError, match="log_type wandb needs a log_dir"):
        Logger("wandb")
