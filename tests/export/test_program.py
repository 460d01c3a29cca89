"""The command line: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.export.main import main
from tests.export.models import saved


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
