"""An adapter's folder finds its base model from anywhere, and says what to do where it does not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.export.__main__ import main as export
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.respond import main as respond
from tests.export.models import llama
from tests.tiny import tiny_tokenizer


def save_adapter(base, folder, **changes):
    config = AdapterConfig(
        lora_dim=2, objectives=("helpful", "harmless"), base_model=base, **changes
    )
    torch.manual_seed(0)
    inject_adapter(llama(), config).save(folder)
    return json.loads((folder / "adapter_config.json").read_text())["base_model"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a model, where a training is started."""
    project = tmp_path / "project"
    torch.manual_seed(0)
    llama().save_pretrained(project / "models" / "base")
    tiny_tokenizer().save_pretrained(project / "models" / "base")
    monkeypatch.chdir(project)
    return project


def test_a_project_may_move(project, tmp_path, monkeypatch):
    runs = project / "runs"
    assert save_adapter("models/base", runs / "dpo") == "../../models/base"
    step = runs / "dpo" / "checkpoints" / "adapter" / "step-4"
    assert save_adapter("models/base", step) == "../../../../../models/base"
    (tmp_path / "link").symlink_to(runs / "dpo", target_is_directory=True)
    assert PanaceaModel.load(tmp_path / "link").respond("a", "1,0", max_new_tokens=1) is not None
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved" / "models")
    for folder in ("../runs/dpo", tmp_path / "moved" / step.relative_to(project)):
        model = PanaceaModel.load(folder)
        assert model.respond("a", "1,0", max_new_tokens=1) is not None


def test_what_is_recorded(project, tmp_path, monkeypatch):
    runs = project / "runs"
    absolute = str(project / "models" / "base")
    assert save_adapter(absolute, runs / "one") == "../../models/base"
    assert save_adapter("org/on-the-hub", runs / "two") == "org/on-the-hub"
    assert save_adapter(None, runs / "three") is None
    # Nothing but the home folder holds both: the adapter may move, the model stays.
    monkeypatch.setenv("HOME", str(tmp_path))
    assert save_adapter("models/base", tmp_path / "elsewhere") == absolute
    assert save_adapter("~/project/models/base", tmp_path / "again") == absolute
    again = PanaceaModel.load(runs / "one")
    again.adapter.save(runs / "four")  # what was read is written back
    assert json.loads((runs / "four" / "adapter_config.json").read_text())["base_model"] == (
        "../../models/base"
    )


@pytest.mark.parametrize("recorded", ["models/base", "./models/base", "../project/models/base"])
def test_an_older_record_is_of_the_folder_that_the_training_was_started_in(recorded, project):
    save_adapter("models/base", project / "runs" / "dpo")
    file = project / "runs" / "dpo" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model": recorded}))
    assert read_config(project / "runs" / "dpo").base_model == recorded
    assert PanaceaModel.load("runs/dpo").respond("a", "1,0", max_new_tokens=1) is not None


PROGRAMS = {
    "respond": (respond, ("--preference", "1,0", "a")),
    "gguf": (export, ("--format", "gguf", "--output_dir", "out")),
    "evaluation": (evaluate, ("--datasets", "pairs:1:pairs.jsonl", "--output_dir", "out")),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_base_model_that_is_not_there(name, project, capsys):
    save_adapter("models/base", project / "runs" / "dpo")
    shutil.rmtree(project / "models")
    main, flags = PROGRAMS[name]
    with pytest.raises(SystemExit) as stop:
        main(["--adapter", "runs/dpo", *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "models/base: no such folder" in error
    assert "the base model that runs/dpo names" in error and "--base_model" in error
    assert not (project / "out").exists()
