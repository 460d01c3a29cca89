"""The command line: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.export.__main__ import FORMATS, main
from safe_rlhf_panacea.models import load_pretrained_models
from tests.export.models import llama, saved
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("saved"))[1]


def run(capsys, adapter, out, form="peft-parts", *more):
    """Exit code and what was printed, on both streams; λ is (1, 0) where the format wants one."""
    vector = ["--preference", "1,0"] if FORMATS[form][0] else []
    flags = ["--adapter", adapter, "--output_dir", out, "--format", form, *vector, *more]
    try:
        main(list(map(str, flags)))
        code = 0
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize("form", FORMATS)
def test_every_format(form, adapter, tmp_path, capsys):
    code, printed = run(capsys, adapter, tmp_path / "new" / "out", form)
    assert code == 0, printed
    assert str(tmp_path / "new" / "out" / "panacea.json") in printed
    record = json.loads((tmp_path / "new" / "out" / "panacea.json").read_text())
    assert record["format"] == form and record["objectives"] == ["helpful", "harmless"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["out"]


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
    with pytest.raises(SystemExit) as stop:
        main(["--adapter", str(adapter), "--output_dir", str(tmp_path / "out"), *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMATS)
def test_an_adapter_of_another_base_is_refused(form, adapter, tmp_path, capsys):
    base = tmp_path / "base"
    llama(num_key_value_heads=4).save_pretrained(base)  # the adapter's has two
    tiny_tokenizer().save_pretrained(base)
    code, error = run(capsys, adapter, tmp_path / "out", form, "--base_model", base)
    assert code == 2 and "k_proj.lora_U has shape (16, 5), this model needs (32, 5)" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["peft", "peft-parts", "merged"])
def test_what_overflows_is_not_exported(form, tmp_path, capsys):
    _, folder = saved("llama", tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    for key in ("U", "sigma"):  # finite, but not their product
        tensors[f"{name}.lora_{key}"] = torch.full_like(tensors[f"{name}.lora_{key}"], 1e30)
    save_file(tensors, folder / "adapter_model.safetensors")
    code, error = run(capsys, folder, tmp_path / "out", form)
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
    assert run(capsys, folder, tmp_path / "out")[0] == 0


def test_a_base_that_is_not_there_is_no_check(tmp_path, capsys):
    base, folder = saved("llama", tmp_path)
    shutil.rmtree(base)
    with pytest.warns(RuntimeWarning, match="whether the adapter fits its base model was not"):
        assert run(capsys, folder, tmp_path / "out")[0] == 0


def test_other_peoples_files_stay(adapter, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    code, error = run(capsys, adapter, tmp_path, "peft-parts", "--overwrite")
    assert code == 2 and "holds other files" in error
    code, error = run(capsys, adapter, tmp_path / "thesis.tex", "peft-parts", "--overwrite")
    assert code == 2 and "is a file" in error
    (tmp_path / "out").symlink_to("out")
    code, error = run(capsys, adapter, tmp_path / "out", "peft", "--overwrite")
    assert code == 2 and "out is a link that leads nowhere" in error


def foreign_link(out):
    """What the record names, replaced by a link to somebody's folder."""
    (out / "helpful").rename(out.parent / "elsewhere")
    (out / "helpful").symlink_to(out.parent / "elsewhere", target_is_directory=True)


def no_files_named(out):
    record = json.loads((out / "panacea.json").read_text())
    (out / "panacea.json").write_text(json.dumps({**record, "files": None}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "helpful" / "notes.txt").write_text("x"), "holds helpful/notes.txt, "),
        (lambda out: (out / "thesis").mkdir(), "holds thesis, which is no part of the export"),
        (foreign_link, "holds helpful, which is no part of the export"),
        (no_files_named, "names no files"),
        (lambda out: (out / "panacea.json").write_text('{"half'), "not valid JSON"),
        (lambda out: (out / "panacea.json").write_text("{}"), "not the record of an export"),
    ],
)
def test_only_what_the_record_names_is_replaced(change, message, adapter, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(capsys, adapter, out)[0] == 0
    change(out)
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    code, error = run(capsys, adapter, out, "peft-parts", "--overwrite")
    assert code == 2 and message in error and error.count("\n") == 1
    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("full", [True, False])
def test_an_export_is_replaced_when_asked_and_a_link_stays_a_link(full, adapter, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk", target_is_directory=True)
    if full:
        assert run(capsys, adapter, out)[0] == 0
        code, error = run(capsys, adapter, out, "peft")
        assert code == 2 and "holds an export already" in error
        assert (out / "helpful").is_dir()
    assert run(capsys, adapter, out, "peft", "--overwrite")[0] == 0
    assert out.is_symlink()
    files = ["adapter_config.json", "adapter_model.safetensors", "panacea.json"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]
