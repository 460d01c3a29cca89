from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.sources import read_json_rows
from safe_rlhf_panacea.errors import UserError


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_lines(write: Callable[..., Path], name: str) -> None:
    path = write([{"prompt": "one\u2028two"}, "", {"prompt": "ü"}], name)
    rows = read_json_rows(path)
    assert rows.rows == [{"prompt": "one\u2028two"}, {"prompt": "ü"}]
    # the blank line counts as a line, but is no row
    assert [rows.where(0), rows.where(1)] == [f"{path}:1", f"{path}:3"]


def test_raw_line_separator_inside_a_string(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "one\u2028two"}\n{"prompt": "b"}\n', encoding="utf-8")
    assert len(read_json_rows(path).rows) == 2


@pytest.mark.parametrize("name", ["a.jsonl.xz", "a.json.xz"])
def test_xz(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    packed = lzma.compress(b'{"prompt": "a"}\n{"prompt": "b"}\n')
    path.write_bytes(packed)
    assert read_json_rows(path).rows == [{"prompt": "a"}, {"prompt": "b"}]
    path.write_bytes(packed[:-10])
    with pytest.raises(UserError, match=rf"{name}: truncated or no xz file"):
        read_json_rows(path)


def test_xz_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json.xz"
    path.write_bytes(lzma.compress(b'[{"prompt": "a"}]'))
    assert read_json_rows(path).rows == [{"prompt": "a"}]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_array(write: Callable[..., Path], name: str) -> None:
    path = write(['[{"prompt": "a"},', '{"prompt": "b"}]'], name)
    rows = read_json_rows(path)
    assert rows.rows == [{"prompt": "a"}, {"prompt": "b"}]
    assert rows.where(1) == f"{path}, row 2"


def test_a_key_that_stands_twice(write: Callable[..., Path]) -> None:
    path = write(['{"prompt": "a"}', '{"prompt": "a", "prompt": "b"}'], "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON \(the key 'prompt' stands twice"):
        read_json_rows(path)


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n')
    assert read_json_rows(path).rows == [{"prompt": "a"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}, '{"prompt": "b"'], r"a\.jsonl:2: not JSON \(Expecting ',' delimiter\)"),
        ([{"prompt": "a"}, "", "hello"], r"a\.jsonl:3: not JSON"),
        ([{"prompt": "a"}, "[1, 2]"], r"a\.jsonl:2: a JSON list; a row is one object"),
        (["9" * 5000], r"a\.jsonl:1: not JSON \(Exceeds the limit"),
        (["[" * 100_000], r"a\.jsonl:1: not JSON"),
        ([], r"a\.jsonl: no rows"),
        (["", "   "], r"a\.jsonl: no rows"),
    ],
)
def test_malformed(write: Callable[..., Path], rows: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_json_rows(write(rows, "a.jsonl"))
    assert "\n" not in str(caught.value)


def test_empty_array(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"a\.json: no rows"):
        read_json_rows(write(["[]"], "a.json"))


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 100)[:-10])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: truncated or no gzip file"):
        read_json_rows(path)
    path.write_bytes(b'{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: truncated or no gzip file"):
        read_json_rows(path)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not UTF-8 text \(byte 28\)"):
        read_json_rows(path)
