"""What the specs of data sets say, and what their paths open: JSON files, tables, and the hub."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.specs import DatasetSpec, open_path, read_specs
from safe_rlhf_panacea.errors import UserError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("quiet_local_cache")
ROWS = [
    {"prompt": "q", "response_0": "a", "response_1": "b", "better_helpful": 0},
    {"prompt": "r", "response_0": "c", "response_1": "d", "better_helpful": None},
]
A, B = b'{"prompt": "a"}\n', b'{"prompt": "b"}\n'
HOME = Path.home()


@pytest.mark.parametrize(
    ("string", "spec"),
    [
        ("pairs", DatasetSpec("pairs")),
        ("pairs:0.5", DatasetSpec("pairs", 0.5)),
        ("pairs:1/4", DatasetSpec("pairs", 0.25)),
        ("pairs:2", DatasetSpec("pairs", 2.0)),
        ("pairs:100/-1", DatasetSpec("pairs", Fraction(-100))),
        ("pairs::data.jsonl", DatasetSpec("pairs", 1.0, "data.jsonl")),
        ("pairs:1:a:b.jsonl", DatasetSpec("pairs", 1.0, "a:b.jsonl")),
        ("PKU/train:0.1:x", DatasetSpec("PKU/train", 0.1, "x")),
        ("pairs:1:~/x", DatasetSpec("pairs", 1.0, str(HOME / "x"))),
        ("kind=pairs:2:x=1.jsonl", DatasetSpec("pairs", 2.0, "x=1.jsonl", "kind")),
        ("pairs:2:x=1.jsonl", DatasetSpec("pairs", 2.0, "x=1.jsonl")),
        # places without a name, whether or not they are there
        ("x/data.jsonl", DatasetSpec("auto", 1.0, "x/data.jsonl")),
        ("kind=data.json.gz:0.5", DatasetSpec("auto", 0.5, "data.json.gz", "kind")),
        ("data.parquet:100/-1", DatasetSpec("auto", Fraction(-100), "data.parquet")),
        ("~/x.jsonl", DatasetSpec("auto", 1.0, str(HOME / "x.jsonl"))),
        ("lr=0.1/saved", DatasetSpec("auto", 1.0, "lr=0.1/saved")),
        ("kind=lr=0.1/saved#test", DatasetSpec("auto", 1.0, "lr=0.1/saved#test", "kind")),
        ("owner/name#dev:2", DatasetSpec("auto", 2.0, "owner/name#dev")),
        ("nvidia/HelpSteer3", DatasetSpec("auto", 1.0, "nvidia/HelpSteer3")),
        ("alpaca", DatasetSpec("alpaca")),  # a name, though there is such a folder
        ("PKU-SafeRLHF/tset", DatasetSpec("PKU-SafeRLHF/tset")),  # and no name of the hub
    ],
)
def test_what_a_spec_says(string, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("lr=0.1/saved", "alpaca"):
        (tmp_path / folder).mkdir(parents=True)
    assert read_specs(string) == [spec]


def test_forms_of_specs():
    expected = [DatasetSpec("a", 0.5, "p"), DatasetSpec("b")]
    assert read_specs(["a:0.5:p", "b"]) == read_specs(expected) == expected
    assert read_specs([("a", {"proportion": 0.5, "path": "p"}), ("b", 1.0)]) == expected
    assert read_specs({"a": {"proportion": 0.5, "path": "p"}, "b": 1.0}) == expected
    specs = read_specs(["a=x.jsonl", "b=x.jsonl", "y.jsonl"])  # no two are the same data
    assert [spec.objective for spec in specs] == ["a", "b", None]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (":1:x", "data set ':1:x' has no name; the form is name"),
        ("pairs:many", "proportion 'many' is neither a number nor a fraction"),
        ("pairs:1/0", "proportion '1/0' is neither"),
        ("pairs:1:", "data set 'pairs:1:' has an empty path"),
        *(
            (f"pairs:{proportion}", r"data set 'pairs': proportion .* is not above 0")
            for proportion in ("0", "-1", "-0.5", "nan", "inf", "0/-1", "-3/-1")
        ),
        ([], "no data set given"),
        (["pairs:1:x.jsonl", "pairs:0.5:x.jsonl"], r"x.jsonl is given twice"),
        (["a=x.jsonl", "a=x.jsonl:2"], r"x\.jsonl is given twice"),
        ([("pairs", {"split": "train"})], "unknown attribute split"),
    ],
)
def test_malformed_specs(spec, message):
    with pytest.raises(UserError, match=message):
        read_specs(spec)


def test_a_proportion_of_no_row():
    with pytest.raises(UserError, match=r"x.jsonl: proportion 0.01 of 10 rows is not one row"):
        DatasetSpec("pairs", 0.01, "x.jsonl").count(10)


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        # a blank line counts as a line, but is no row
        ("a.jsonl", A + b"\n" + B, [":1", ":3"]),
        ("a.json", A + b"\n" + B, [":1", ":3"]),
        ("a.jsonl.gz", gzip.compress(A + B, mtime=0), [":1", ":2"]),
        ("a.jsonl.xz", lzma.compress(A + B), [":1", ":2"]),
        ("a.json", b'[{"prompt": "a"},\n{"prompt": "b"}]', [", row 1", ", row 2"]),
        ("a.json.gz", gzip.compress(b"[" + A + b"," + B + b"]", mtime=0), [", row 1", ", row 2"]),
        ("a.json.xz", lzma.compress(b"[" + A + b"," + B + b"]"), [", row 1", ", row 2"]),
        ("a.jsonl", b"\xef\xbb\xbf" + A + B, [":1", ":2"]),  # a byte order mark
        # a line separator may stand inside a string
        ("a.jsonl", '{"prompt": "a", "x": "ü\u2028ü"}\n{"prompt": "b"}'.encode(), [":1", ":2"]),
    ],
)
def test_rows_of_files(tmp_path, name, content, places):
    path = tmp_path / name
    path.write_bytes(content)
    found = open_path(str(path))
    assert [row["prompt"] for row in found.rows] == ["a", "b"]
    assert [found.where(0), found.where(1)] == [f"{path}{place}" for place in places]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", A + b'{"prompt": "b"', r":2: not JSON \(Expecting ',' delimiter\)"),
        ("a.jsonl", A + b"\nhello", ":3: not JSON"),
        ("a.jsonl", A + b"[1, 2]", ":2: a JSON list; a row is one object"),
        ("a.jsonl", b"9" * 5000, r":1: not JSON \(Exceeds the limit"),
        ("a.jsonl", b"[" * 100_000, ":1: not JSON"),
        ("a.jsonl", A + b'{"prompt": "a", "prompt": "b"}', r":2: .*\(the key 'prompt' stands twi"),
        ("a.jsonl", b"\n   \n", ": no rows"),
        ("a.json", b"[]", ": no rows"),
        ("a.jsonl", A + b'{"prompt": "\xff"}\n', r":2: not UTF-8 text \(byte 28\)"),
        ("a.jsonl.gz", gzip.compress(A * 100, mtime=0)[:-10], ": truncated or no gzip file"),
        ("a.jsonl.gz", A, ": truncated or no gzip file"),
        ("a.json.xz", lzma.compress(A)[:-10], ": truncated or no xz file"),
        ("a.csv", b"prompt\nq\n", ": unknown kind of file; there are .jsonl"),
    ],
)
def test_malformed_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}{message}") as caught:
        open_path(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["none.jsonl", "./none", "none.json.gz", "no/such/folder"])
def test_nothing_there(path, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        RawDataset.load("alpaca", path=path)
    with pytest.raises(UserError, match="no such file"):
        RawDataset.load("pairs", path=str(tmp_path / path))


def test_saved_folders(tmp_path):
    table = datasets.Dataset.from_list([*ROWS] * 600)  # more rows than are read at once
    table.save_to_disk(str(tmp_path / "one"))
    rows = open_path(f"{tmp_path}/one")
    assert list(rows.rows) == ROWS * 600
    assert rows.where(1100) == f"{tmp_path}/one, row 1101"
    with pytest.raises(UserError, match="one: has no splits; leave out #test"):
        open_path(f"{tmp_path}/one#test")
    parts = {"train": ROWS[:1], "test": [*ROWS[1:], {**ROWS[0], "prompt": " "}]}
    splits = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(splits).save_to_disk(f"{tmp_path}/splits")
    assert list(open_path(f"{tmp_path}/splits").rows) == ROWS[:1]  # train unless another is named
    with pytest.raises(UserError, match="there is no split 'dev'; there are: train, test"):
        open_path(f"{tmp_path}/splits#dev")
    with pytest.raises(UserError, match=r"splits#test, row 2: prompt is blank"):
        RawDataset.load("pairs", path=f"{tmp_path}/splits#test")


def test_folders_of_data_files(tmp_path):
    for name in ("parquet", "json", "empty"):
        (tmp_path / name).mkdir()
    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(str(tmp_path / "parquet" / "data.parquet"))
    # the only split, though not train
    (tmp_path / "json" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for path in ("parquet", "parquet/data.parquet", "json"):
        assert list(open_path(str(tmp_path / path)).rows) == ROWS
    with pytest.raises(UserError, match="empty: cannot be read as a data set") as caught:
        open_path(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


def test_a_name_on_the_hub(monkeypatch):
    found = {"train": datasets.Dataset.from_list(ROWS), "none": datasets.Dataset.from_dict({})}
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or found)
    assert list(open_path("owner/name").rows) == list(open_path("owner/name#train").rows) == ROWS
    assert asked == ["owner/name", "owner/name"]
    with pytest.raises(UserError, match="owner/name#none: no rows"):
        RawDataset.load("prompts", path="owner/name#none")


def test_the_hub_out_of_reach(monkeypatch):
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


def test_the_package_datasets_missing(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="owner/name: reading it needs the package datasets"):
        open_path("owner/name")
    assert len(open_path(str(write(ROWS))).rows) == 2  # JSON does without


def test_what_importing_the_data_imports():
    code = """import sys, safe_rlhf_panacea.data
assert "datasets" not in sys.modules
assert not [name for name in sys.modules if "panacea.base" in name or "panacea.models" in name]
"""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
