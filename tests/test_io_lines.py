"""Lines of JSON that survive a full disk and an interruption."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea import io
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import append_line, cut_half_line, read_json_lines


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
