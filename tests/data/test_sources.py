"""Where rows come from: JSON files, folders and tables of ``datasets``, and the hub."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.datasets import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.specs import open_path, read_json_rows
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("quiet_local_cache")

ROWS = [
    {"prompt": "q", "response_0": "a", "response_1": "b", "better_helpful": 0},
    {"prompt": "r", "response_0": "c", "response_1": "d", "better_helpful": None},
]
A, B = b'{"prompt": "a"}\n', b'{"prompt": "b"}\n'


# -- JSON files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_lines(write, name):
    path = write([{"prompt": "one\u2028two"}, "", {"prompt": "ü"}], name)
    rows = read_json_rows(path)
    assert rows.rows == [{"prompt": "one\u2028two"}, {"prompt": "ü"}]
    # the blank line counts as a line, but is no row
    assert [rows.where(0), rows.where(1)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_array(write, name):
    path = write(['[{"prompt": "a"},', '{"prompt": "b"}]'], name)
    rows = read_json_rows(path)
    assert rows.rows == [{"prompt": "a"}, {"prompt": "b"}]
    assert rows.where(1) == f"{path}, row 2"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.xz", lzma.compress(A + B)),
        ("a.json.xz", lzma.compress(A + B)),
        ("b.json.xz", lzma.compress(b'[{"prompt": "a"}, {"prompt": "b"}]')),
        ("a.jsonl", b"\xef\xbb\xbf" + A + B),  # a byte order mark
        # a line separator may stand inside a string
        ("b.jsonl", '{"prompt": "a", "x": "one\u2028two"}\n{"prompt": "b"}\n'.encode()),
    ],
)
def test_other_bytes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert [row["prompt"] for row in read_json_rows(tmp_path / name).rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", A + b'{"prompt": "b"', r":2: not JSON \(Expecting ',' delimiter\)"),
        ("a.jsonl", A + b"\nhello", ":3: not JSON"),
        ("a.jsonl", A + b"[1, 2]", ":2: a JSON list; a row is one object"),
        ("a.jsonl", b"9" * 5000, r":1: not JSON \(Exceeds the limit"),
        ("a.jsonl", b"[" * 100_000, ":1: not JSON"),
        ("a.jsonl", A + b'{"prompt": "a", "prompt": "b"}', r":2: .*\(the key 'prompt' stands twi"),
        ("a.jsonl", b"", ": no rows"),
        ("a.jsonl", b"\n   \n", ": no rows"),
        ("a.json", b"[]", ": no rows"),
        ("a.jsonl", A + b'{"prompt": "\xff"}\n', r":2: not UTF-8 text \(byte 28\)"),
        ("a.jsonl.gz", gzip.compress(A * 100, mtime=0)[:-10], ": truncated or no gzip file"),
        ("a.jsonl.gz", A, ": truncated or no gzip file"),
        ("a.json.xz", lzma.compress(A)[:-10], ": truncated or no xz file"),
    ],
)
def test_malformed(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}{message}") as caught:
        read_json_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["none.jsonl", "./none"])
def test_nothing_there(path):
    with pytest.raises(UserError, match="no such file"):
        RawDataset.load("alpaca", path=path)


# -- tables of datasets -------------------------------------------------------------------


def test_saved_folder(tmp_path):
    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    rows = open_path(folder)
    assert list(rows.rows) == ROWS
    assert rows.where(1) == f"{folder}, row 2"
    # the row without a label is skipped, as from JSON
    dataset = PreferenceDataset([f"pairs:1:{folder}"], tiny_tokenizer(), objectives=("helpful",))
    assert (len(dataset), dataset.skipped) == (1, 1)
    with pytest.raises(UserError, match="saved: has no splits; leave out #test"):
        open_path(f"{folder}#test")
    datasets.Dataset.from_list([ROWS[0], {**ROWS[1], "prompt": " "}]).save_to_disk(f"{folder}2")
    with pytest.raises(UserError, match="saved2, row 2: prompt is blank"):
        PreferenceDataset([f"pairs:1:{folder}2"], tiny_tokenizer())


def test_saved_splits(tmp_path):
    folder = str(tmp_path / "saved")
    parts = {"train": ROWS[:1], "test": ROWS[1:]}
    splits = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(splits).save_to_disk(folder)
    assert list(open_path(folder).rows) == ROWS[:1]  # train unless another is named
    rows = open_path(f"{folder}#test")
    assert list(rows.rows) == ROWS[1:]
    assert rows.where(0) == f"{folder}#test, row 1"
    with pytest.raises(UserError, match="there is no split 'dev'; there are: train, test"):
        open_path(f"{folder}#dev")


def test_folders_of_data_files(tmp_path):
    for name in ("parquet", "json", "empty"):
        (tmp_path / name).mkdir()
    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(str(tmp_path / "parquet" / "data.parquet"))
    table.to_json(str(tmp_path / "json" / "test.jsonl"))  # the only split, though not train
    for path in ("parquet", "parquet/data.parquet", "json"):
        assert list(open_path(str(tmp_path / path)).rows) == ROWS
    with pytest.raises(UserError, match="empty: cannot be read as a data set") as caught:
        open_path(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


def test_many_rows_of_a_table_stay_in_order(tmp_path):
    rows = [{"prompt": str(i)} for i in range(2500)]  # more than are read at once
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "many"))
    raw = RawDataset.load("prompts", path=str(tmp_path / "many"))
    assert [sample["input"] for sample in raw] == [str(i) for i in range(2500)]
    assert raw.where(2400).endswith("many, row 2401")


def test_hub_name(monkeypatch):
    asked = []

    def load_dataset(name):
        asked.append(name)
        return {"train": datasets.Dataset.from_list(ROWS)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(open_path("owner/name").rows) == ROWS
    assert list(open_path("owner/name#train").rows) == ROWS
    assert asked == ["owner/name", "owner/name"]
    nothing = {"train": datasets.Dataset.from_dict({"prompt": []})}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: nothing)
    with pytest.raises(UserError, match="owner/name: no rows"):
        RawDataset.load("prompts", path="owner/name")


def test_hub_out_of_reach(monkeypatch):
    def load_dataset(name, **options):
        raise ConnectionError(f"cannot reach\n{name}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    expected = (
        r"owner/name: cannot be read as a file, a folder or a data set of the hub "
        r"\(ConnectionError: cannot reach owner/name\)$"
    )
    with pytest.raises(UserError, match=expected):
        open_path("owner/name")
    with pytest.raises(UserError, match=r"\); a copy can be given as PKU-SafeRLHF/test:1:PATH$"):
        RawDataset.load("PKU-SafeRLHF/test")


def test_package_missing(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="owner/name: reading it needs the package datasets"):
        open_path("owner/name")
    assert len(list(open_path(str(write(ROWS))).rows)) == 2  # JSON does without


def test_imported_only_when_needed():
    code = "import sys, safe_rlhf_panacea.data; assert 'datasets' not in sys.modules"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
