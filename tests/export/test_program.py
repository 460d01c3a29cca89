"""The command line: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.export.main import FORMATS, main
from safe_rlhf_panacea.models import load_pretrained_models
from tests.export.models import llama, saved
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("saved"))[1]


def run(capsys, *argv):
    """Exit code and what was printed."""
    try:
        main(list(map(str, argv)))
        code = 0
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_files_and_record(adapter, tmp_path, capsys):
    out = tmp_path / "new" / "parts"
    code, printed, _ = run(
        capsys, "--adapter", adapter, "--format", "peft-parts", "--output_dir", out
    )
    assert code == 0 and str(out / "helpful" / "adapter_config.json") in printed
    record = json.loads((out / "panacea.json").read_text())
    assert record["format"] == "peft-parts" and record["objectives"] == ["helpful", "harmless"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["parts"]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format(form, adapter, tmp_path, capsys):
    flags = ["--preference", "1,0"] if FORMATS[form][0] else []
    flags += ["--adapter", adapter, "--output_dir", tmp_path / "out", "--format", form]
    code, printed, error = run(capsys, *flags)
    assert code == 0, error
    assert str(tmp_path / "out" / "panacea.json") in printed


def test_an_export_is_replaced_only_when_asked(adapter, tmp_path, capsys):
    flags = ("--adapter", adapter, "--output_dir", tmp_path / "out", "--format")
    assert run(capsys, *flags, "peft-parts")[0] == 0
    code, _, error = run(capsys, *flags, "peft", "--preference", "1,0")
    assert code == 2 and "holds an export already" in error
    assert (tmp_path / "out" / "helpful").is_dir()
    assert run(capsys, *flags, "peft", "--preference", "1,0", "--overwrite")[0] == 0
    assert not (tmp_path / "out" / "helpful").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "peft"], "--format peft takes one --preference, not 0"),
        (["--format", "gguf", "--preference", "1,0"], "takes no --preference, not 1"),
        (["--format", "vllm"], "takes at least one --preference, not 0"),
        (["--format", "merged", "--preference", "1,1"], "sums to 2"),
        (["--format", "merged", "--preference", "1,0", "--base_model", "no/where/x"], "no/where/x"),
        (["--format", "gguf", "--base_model", "no/where/x"], "no/where/x"),
        (["--format", "onnx"], "invalid choice"),
    ],
)
def test_refusals_leave_nothing(flags, message, adapter, tmp_path, capsys):
    code, _, error = run(capsys, "--adapter", adapter, "--output_dir", tmp_path / "out", *flags)
    assert code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["peft", "peft-parts", "gguf", "vllm", "merged"])
def test_an_adapter_of_another_base_is_refused(form, adapter, tmp_path, capsys):
    base = tmp_path / "base"
    llama(num_key_value_heads=4).save_pretrained(base)  # the adapter's has two
    tiny_tokenizer().save_pretrained(base)
    flags = ("--adapter", adapter, "--base_model", base, "--output_dir", tmp_path / "out")
    vector = () if form in ("peft-parts", "gguf") else ("--preference", "1,0")
    code, _, error = run(capsys, *flags, "--format", form, *vector)
    assert code == 2 and "k_proj.lora_U has shape (16, 5), this model needs (32, 5)" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["peft", "peft-parts", "vllm", "merged"])
def test_what_overflows_is_not_exported(form, tmp_path, capsys):
    _, folder = saved("llama", tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    for key in ("U", "sigma"):  # finite, but not their product
        tensors[f"{name}.lora_{key}"] = torch.full_like(tensors[f"{name}.lora_{key}"], 1e30)
    save_file(tensors, folder / "adapter_model.safetensors")
    vector = () if form == "peft-parts" else ("--preference", "1,0")
    flags = ("--adapter", folder, "--output_dir", tmp_path / "out", "--format", form, *vector)
    code, _, error = run(capsys, *flags)
    assert code == 2 and f"{name}." in error and "is not finite in float32" in error
    assert not (tmp_path / "out").exists()


def test_an_adapted_head_that_grew_with_the_tokenizer_fits(tmp_path, capsys):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    llama(vocab_size=70).save_pretrained(base)
    tokenizer = tiny_tokenizer()  # 54 tokens
    tokenizer.add_tokens([f"<{i}>" for i in range(20)])
    tokenizer.save_pretrained(base)
    with pytest.warns(RuntimeWarning, match="74 tokens"):
        model, _ = load_pretrained_models(base)
    config = AdapterConfig(lora_dim=2, lora_module_name="", base_model=str(base))
    inject_adapter(model, config).save(folder)
    flags = ("--adapter", folder, "--output_dir", tmp_path / "out", "--format", "peft-parts")
    assert run(capsys, *flags)[0] == 0


def test_a_base_that_is_not_there_is_no_check(tmp_path, capsys):
    base, folder = saved("llama", tmp_path)
    shutil.rmtree(base)
    flags = ("--adapter", folder, "--output_dir", tmp_path / "out", "--format", "peft-parts")
    with pytest.warns(RuntimeWarning, match="whether the adapter fits its base model was not"):
        assert run(capsys, *flags)[0] == 0


def test_other_peoples_files_stay(adapter, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    flags = ("--adapter", adapter, "--format", "peft-parts", "--overwrite")
    code, _, error = run(capsys, *flags, "--output_dir", tmp_path)
    assert code == 2 and "holds other files" in error
    code, _, error = run(capsys, *flags, "--output_dir", tmp_path / "thesis.tex")
    assert code == 2 and "is a file" in error


def foreign_file(out):
    (out / "helpful" / "notes.txt").write_text("x")
    return "holds helpful/notes.txt, which is no part of the export"


def foreign_folder(out):
    (out / "thesis").mkdir()
    return "holds thesis, which is no part of the export"


def foreign_link(out):
    """What the record names, replaced by a link to somebody's folder."""
    (out / "helpful").rename(out.parent / "elsewhere")
    (out / "helpful").symlink_to(out.parent / "elsewhere", target_is_directory=True)
    return "holds helpful, which is no part of the export"


def no_files_named(out):
    record = json.loads((out / "panacea.json").read_text())
    del record["files"]
    (out / "panacea.json").write_text(json.dumps(record))
    return "names no files"


def another_record(out):
    (out / "panacea.json").write_text('{"half')
    return "not valid JSON"


DAMAGES = (foreign_file, foreign_folder, foreign_link, no_files_named, another_record)


@pytest.mark.parametrize("change", DAMAGES)
def test_only_what_the_record_names_is_replaced(change, adapter, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--adapter", adapter, "--output_dir", out, "--overwrite", "--format", "peft-parts")
    assert run(capsys, *flags)[0] == 0
    message = change(out)
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    code, _, error = run(capsys, *flags)
    assert code == 2 and message in error and error.count("\n") == 1
    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("full", [True, False])
def test_a_link_stays_a_link(full, adapter, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk", target_is_directory=True)
    flags = ("--adapter", adapter, "--output_dir", tmp_path / "out", "--overwrite", "--format")
    if full:
        assert run(capsys, *flags, "peft-parts")[0] == 0
    assert run(capsys, *flags, "peft", "--preference", "1,0")[0] == 0
    assert (tmp_path / "out").is_symlink()
    files = ["adapter_config.json", "adapter_model.safetensors", "panacea.json"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_a_link_to_itself_is_refused_before_anything_is_written(adapter, tmp_path, capsys):
    (tmp_path / "out").symlink_to("out")
    flags = ("--adapter", adapter, "--output_dir", tmp_path / "out", "--overwrite")
    code, _, told = run(capsys, *flags, "--format", "peft", "--preference", "1,0")
    assert code == 2 and "out is a link that leads nowhere" in told
