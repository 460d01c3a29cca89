"""An adapter's base model: found from anywhere, known again, refused where it is another one."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter, load_adapter
from safe_rlhf_panacea.adapter.fingerprint import ROWS, checksum
from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.export.__main__ import main as export
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.respond import main as respond
from safe_rlhf_panacea.serve import main as serve
from tests.export.models import llama, saved
from tests.tiny import tiny_tokenizer

EXPORT = ("--preference", "1,0", "--output_dir", "out")
ANSWER = ("--preference", "1,0", "hello", "--max_new_tokens", "2")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base, adapters on it (one for λ, two for one λ each) and another base of its shapes."""
    folder = tmp_path_factory.mktemp("places")
    saved("llama", folder)
    torch.manual_seed(1)
    llama().save_pretrained(folder / "other")
    tiny_tokenizer().save_pretrained(folder / "other")
    for name, preference in (("first", "0,1"), ("second", "1,0")):
        config = AdapterConfig(lora_dim=3, pref_dim=0, objectives=("helpful", "harmless"))
        model = loaded(folder / ("other" if name == "first" else "base"), torch.float32)
        inject_adapter(model, config).save(folder / name)
        record = {"args": {"fixed_preference": preference}}
        (folder / name / "run.json").write_text(json.dumps(record))
    (folder / "pairs.jsonl").write_text(
        '{"prompt": "a", "response_0": "b", "response_1": "c", "better_helpful": 0, '
        '"better_harmless": 1}\n'
    )
    return folder


def evaluation(*adapters, method):
    data = ("--datasets", "pairs:1:pairs.jsonl", "--method", method, "--max_length", "64")
    return evaluate, ("--adapter", *adapters, *data, "--output_dir", "out")


PROGRAMS = {
    "respond": (respond, ("--adapter", "adapter", *ANSWER)),
    "serve": (serve, ("--adapter", "adapter", "--port", "0")),
    "panacea": evaluation("adapter", method="panacea"),
    # The first of these was trained on the other base, the second was not.
    "soup": evaluation("first", "second", method="rewarded_soups"),
    "discrete": evaluation("second", "first", method="discrete_policies"),
    "merged": (export, ("--adapter", "adapter", "--format", "merged", *EXPORT)),
    "peft": (export, ("--adapter", "adapter", "--format", "peft", *EXPORT)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_another_base_of_the_same_shapes_is_refused(name, places, capsys, monkeypatch):
    monkeypatch.chdir(places)
    main, flags = PROGRAMS[name]
    with pytest.raises(SystemExit) as stop:
        main([*flags, "--base_model", "other"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "was trained on another base model of this shape: model.embed_tokens.weight" in error
    assert ("second: " if name in ("soup", "discrete") else "adapter: ") in error
    assert not (places / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("saved_as", [torch.float32, torch.bfloat16])
def test_the_precision_of_a_load_makes_no_difference(dtype, saved_as, tmp_path):
    """Of a checkpoint in float32 or bfloat16; float16 is held against float16 alone."""
    torch.manual_seed(0)
    llama().to(saved_as).save_pretrained(tmp_path / "base")
    config = AdapterConfig(lora_dim=3, lora_scaling=12.0)
    inject_adapter(loaded(tmp_path / "base", saved_as), config).save(tmp_path / "adapter")
    load_adapter(loaded(tmp_path / "base", dtype), tmp_path / "adapter")
    inject_adapter(loaded(tmp_path / "base", torch.float16), config).save(tmp_path / "half")
    load_adapter(loaded(tmp_path / "base", dtype), tmp_path / "half")
    other = loaded(tmp_path / "base", dtype)
    with torch.no_grad():  # a last digit of bfloat16, which is no rounding
        other.model.layers[0].self_attn.q_proj.weight[3, 5] *= 1 + 2**-7
    with pytest.raises(AdapterError, match=r"q_proj\.weight differs"):
        folder = "half" if dtype == torch.float16 else "adapter"
        load_adapter(other, tmp_path / folder)
    assert not hasattr(other, "panacea_adapter")


def loaded(base, dtype):
    return type(llama()).from_pretrained(base, dtype=dtype)


def test_an_older_adapter_has_no_fingerprint_and_loads(places, tmp_path):
    shutil.copytree(places / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    values = json.loads(file.read_text())
    assert len(values.pop("base_fingerprint")) == 3  # embeddings, first and last adapted weight
    file.write_text(json.dumps(values))
    load_adapter(loaded(places / "other", torch.float32), tmp_path / "adapter")


def test_new_tokens_change_nothing_and_weights_without_numbers_have_no_checksum():
    weight = torch.randn(ROWS, 3)
    assert checksum(torch.cat([weight, torch.randn(5, 3)])) == checksum(weight)
    assert checksum(weight.to("meta")) is checksum(weight.to(torch.int8)) is None
    with FakeTensorMode():  # as any of a library's own kinds of tensor
        assert checksum(torch.nn.Parameter(torch.empty(3, 3))) is None


# -- where it is ----------------------------------------------------------------------


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


WITHOUT_BASE = {
    "respond": (respond, ("--preference", "1,0", "a")),
    "gguf": (export, ("--format", "gguf", "--output_dir", "out")),
    "evaluation": (evaluate, ("--datasets", "pairs:1:pairs.jsonl", "--output_dir", "out")),
}


@pytest.mark.parametrize("name", WITHOUT_BASE)
def test_a_base_model_that_is_not_there(name, project, capsys):
    save_adapter("models/base", project / "runs" / "dpo")
    shutil.rmtree(project / "models")
    main, flags = WITHOUT_BASE[name]
    with pytest.raises(SystemExit) as stop:
        main(["--adapter", "runs/dpo", *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "models/base: no such folder" in error
    assert "the base model that runs/dpo names" in error and "--base_model" in error
    assert not (project / "out").exists()
