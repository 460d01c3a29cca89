"""Output folders hold one run, and say what it was."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs.run_folder import is_finished, prepare_output_dir
from safe_rlhf_panacea.runs.run_record import finish_run_record, recordable, write_run_record

SECRET = "hush-7b1d9f42c6"


def test_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    args = argparse.Namespace(lr=1e-3, objectives=["helpful"], output_dir=tmp_path, api_key=SECRET)
    file = write_run_record(tmp_path, args, {"program": "panacea-dpo"})
    text = file.read_text()
    record = json.loads(text)
    assert file.name == "run.json"
    assert record["program"] == "panacea-dpo"
    assert record["args"] == {"lr": 1e-3, "objectives": ["helpful"], "output_dir": str(tmp_path)}
    assert record["versions"]["torch"] == torch.__version__
    assert record["started_at"].endswith("+00:00")
    assert "git" in record
    assert SECRET not in text


def test_values_become_json():
    plain = recordable(
        {"dtype": torch.bfloat16, "pair": (1, 2), "inner": {"x": float("inf")}, "none": None}
    )
    assert plain == {"dtype": "torch.bfloat16", "pair": [1, 2], "inner": {"x": "inf"}, "none": None}


def test_secrets_are_left_out_and_tokens_of_text_are_none():
    for name in ("hf_token", "api_key", "wandb_api_key", "password", "token"):
        assert recordable({name: SECRET, "inner": {name: SECRET}}) == {"inner": {}}
    of_text = {"pad_token": 1, "eos_token_id": 1, "max_new_tokens": 1, "tokenizer": 1}
    assert recordable(of_text) == of_text


def test_a_folder_without_a_run_is_free(tmp_path):
    assert prepare_output_dir(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "notes.txt").write_text("mine")
    assert prepare_output_dir(str(tmp_path)) == tmp_path


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    write_run_record(tmp_path, {})
    with pytest.raises(UserError, match=r"already holds a run \(run.json\): .*--overwrite") as e:
        prepare_output_dir(tmp_path)
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)


def test_overwriting_takes_the_old_run_away_and_nothing_else(tmp_path):
    write_run_record(tmp_path, {})
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "checkpoints" / "model").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    prepare_output_dir(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    prepare_output_dir(tmp_path)


@pytest.mark.parametrize("damaged", ["3", "[]", "{", "[" * 100_000])
def test_a_damaged_record_is_named(tmp_path, damaged):
    (tmp_path / "run.json").write_text(damaged)
    for read in (is_finished, lambda path: finish_run_record(path, 1.0)):
        with pytest.raises(UserError, match=r"run\.json") as refusal:
            read(tmp_path)
        assert "\n" not in str(refusal.value)
    assert (tmp_path / "run.json").read_text() == damaged


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        prepare_output_dir(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written to"):
        prepare_output_dir(tmp_path / "file" / "below")
