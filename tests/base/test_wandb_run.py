"""Runs of wandb: what the environment asks for, and what happens when it cannot be had."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs.logger import Logger
from safe_rlhf_panacea.runs.run_folder import WANDB_FILE
from safe_rlhf_panacea.runs.wandb_run import has_login, open_run, wanted_mode
from tests.warm_python import warm_python

VARIABLES = (
    *("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_NAME"),
    *("WANDB_RUN_ID", "WANDB_BASE_URL", "WANDB_INIT_TIMEOUT", "NETRC"),
)
KEY = "5ec2e7aa" * 5
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No variable of wandb's, and nobody logged in."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": KEY}, "online"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled"),
    ],
)
def test_modes(variables, mode, monkeypatch, tmp_path):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted_mode() == mode
    if mode == "disabled":
        logger = Logger("wandb", tmp_path)
        logger.log({"a": 1.0}, step=1)
        logger.close()
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_login_is_found_without_asking(monkeypatch, tmp_path):
    assert not has_login("https://api.example.com")
    file = tmp_path / "netrc"
    file.write_text(f"machine api.example.com\n  login user\n  password {KEY}\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert has_login("https://api.example.com")
    assert not has_login("https://other.example.com")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_login("https://other.example.com")


def test_online_without_a_login_goes_offline_and_asks_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    run = open_run(tmp_path, None, None, {})
    run.finish()
    assert run.offline
    assert "nobody is logged in" in capsys.readouterr().err


def test_a_server_that_does_not_answer_makes_it_offline(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", NOBODY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    run = open_run(tmp_path, None, None, {})
    run.log({"a": 1.0}, step=1)
    run.finish()
    assert run.offline
    assert "so the run is logged offline; wandb sync uploads it" in capsys.readouterr().err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def records(folder):
    """The runs' own records, oldest first."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        command = [warm_python(), "-m", "wandb", "leet", "inspect", "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append([json.loads(line) for line in done.stdout.splitlines()])
    return found


def test_a_resumed_run_has_the_same_id_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step, resume in ((1, False), (2, True)):
        logger = Logger("wandb", tmp_path, config={"lr": 1}, resume=resume)
        logger.log({"a": float(step)}, step=step)
        logger.close()
        time.sleep(1.1)  # wandb names its folders by the second
    first, second = records(tmp_path)
    ids = [next(r["run"]["run_id"] for r in part if r["type"] == "run") for part in (first, second)]
    assert ids[0] == ids[1] == json.loads((tmp_path / WANDB_FILE).read_text())["id"]
    steps = [r["history"]["item"]["_step"] for r in second if r["type"] == "history"]
    assert steps == [2]
    other = Logger("wandb", tmp_path)
    assert other.wandb.id != ids[0]  # a new run has an id of its own
    other.close()


def test_what_names_no_run_no_number_or_no_mode(monkeypatch, tmp_path):
    (tmp_path / WANDB_FILE).write_text("{}")
    with pytest.raises(UserError, match="it names no run of wandb"):
        open_run(tmp_path, None, None, {}, resume=True)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "soon")
    with pytest.raises(UserError, match="WANDB_INIT_TIMEOUT=soon is no number of seconds"):
        open_run(tmp_path, None, None, {})
    monkeypatch.setenv("WANDB_MODE", "sideways")
    with pytest.raises(UserError, match="WANDB_MODE=sideways is none of online, offline"):
        wanted_mode()


def test_neither_host_nor_user_is_recorded(monkeypatch, tmp_path):
    import getpass
    import socket

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = open_run(tmp_path, None, None, {})
    run.finish()
    text = json.dumps(records(tmp_path))
    assert '"run_id"' in text
    assert f'"host": "{socket.gethostname()}"' not in text
    assert f'"username": "{getpass.getuser()}"' not in text


def test_project_and_name_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "first")
    run = open_run(tmp_path, None, None, {})
    assert (run.project, run.name) == ("mine", "first")
    run.finish()
    run = open_run(tmp_path, "flag", "second", {})
    assert (run.project, run.name) == ("flag", "second")
    run.finish()
