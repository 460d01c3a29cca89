"""Files, and lines of JSON, that are whole or not there."""

from __future__ import annotations

import stat

import pytest

from safe_rlhf_panacea import io
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import (
    append_line,
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    cut_half_line,
    read_json,
    read_json_lines,
)


def test_written_files_are_read_back(tmp_path):
    atomic_write_text(tmp_path / "new" / "t", "λ\n")
    atomic_write_json(tmp_path / "j", {"λ": [0.5, None]})
    assert (tmp_path / "new" / "t").read_text(encoding="utf-8") == "λ\n"
    assert read_json(tmp_path / "j") == {"λ": [0.5, None]}
    assert (tmp_path / "j").read_text(encoding="utf-8").endswith("}\n")


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    atomic_write_text(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write_text(tmp_path / "atomic", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "j", float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, "no such file"), (b"{\n1}", "bad.json:2: not valid JSON"), (b"\xff", "not UTF-8")],
)
def test_bad_json_is_told_in_one_line(tmp_path, content, line):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        read_json(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_line_that_cannot_be_written_leaves_no_trace(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    append_line(path, '"é"', sync=True)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        append_line(path, '"lost"', sync=True)
    append_line(path, "2")
    assert read_json_lines(path) == ["é", 2]


def test_a_line_cut_within_a_character(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b'1\n"' + "é".encode()[:1])
    assert read_json_lines(path) == [1]
    cut_half_line(path)
    append_line(path, "2")
    assert read_json_lines(path) == [1, 2]
    cut_half_line(tmp_path / "nowhere")
    path.write_bytes(b"half")
    cut_half_line(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("damaged", [b"{", b"\xff", b""])
def test_a_damaged_line_is_named(tmp_path, damaged):
    path = tmp_path / "lines"
    path.write_bytes(b"1\n" + damaged + b"\n")
    with pytest.raises(UserError, match="lines:2: not valid JSON"):
        read_json_lines(path)
