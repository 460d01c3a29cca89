from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.specs import DatasetSpec, parse_dataset, read_specs
from safe_rlhf_panacea.errors import UserError


@pytest.mark.parametrize(
    ("string", "name", "attributes"),
    [
        ("pairs", "pairs", {"proportion": 1.0}),
        ("pairs:0.5", "pairs", {"proportion": 0.5}),
        ("pairs:1/4", "pairs", {"proportion": 0.25}),
        ("pairs:2", "pairs", {"proportion": 2.0}),
        ("pairs:100/-1", "pairs", {"proportion": Fraction(-100)}),
        ("pairs::data.jsonl", "pairs", {"proportion": 1.0, "path": "data.jsonl"}),
        ("pairs:1:a:b.jsonl", "pairs", {"proportion": 1.0, "path": "a:b.jsonl"}),
        ("PKU/train:0.1:x", "PKU/train", {"proportion": 0.1, "path": "x"}),
        ("pairs:1:~/x", "pairs", {"proportion": 1.0, "path": str(Path.home() / "x")}),
    ],
)
def test_parse(string, name, attributes):
    assert parse_dataset(string) == (name, attributes)


@pytest.mark.parametrize(
    ("string", "path", "proportion"),
    [
        ("x/data.jsonl", "x/data.jsonl", 1.0),  # whether or not it is there
        ("data.json.gz:0.5", "data.json.gz", 0.5),
        ("data.parquet:100/-1", "data.parquet", Fraction(-100)),
        ("~/x.jsonl", str(Path.home() / "x.jsonl"), 1.0),
        ("lr=0.1/saved", "lr=0.1/saved", 1.0),
        ("lr=0.1/saved#test", "lr=0.1/saved#test", 1.0),
        ("owner/name", "owner/name", 1.0),
        ("nvidia/HelpSteer3", "nvidia/HelpSteer3", 1.0),  # of an owner who has one with a name here
        ("owner/name#dev:2", "owner/name#dev", 2.0),
    ],
)
def test_a_place_without_a_name(string, path, proportion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1" / "saved").mkdir(parents=True)
    (tmp_path / "alpaca").mkdir()
    assert read_specs(string) == [DatasetSpec("auto", proportion, path)]
    assert read_specs(f"kind={string}") == [DatasetSpec("auto", proportion, path, "kind")]
    assert parse_dataset("alpaca")[0] == "alpaca"  # a name, though there is such a folder
    assert parse_dataset("PKU-SafeRLHF/tset")[0] == "PKU-SafeRLHF/tset"  # and no name of the hub


def test_objectives():
    assert read_specs("kind=pairs:2:x=1.jsonl") == [DatasetSpec("pairs", 2.0, "x=1.jsonl", "kind")]
    assert read_specs("pairs:2:x=1.jsonl") == [DatasetSpec("pairs", 2.0, "x=1.jsonl")]
    specs = read_specs(["a=x.jsonl", "b=x.jsonl"])
    assert [spec.objective for spec in specs] == ["a", "b"]
    assert read_specs(specs) == specs
    assert len(read_specs(["pairs:1:x.jsonl", "pairs:1:y.jsonl"])) == 2


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
def test_malformed(spec, message):
    with pytest.raises(UserError, match=message):
        read_specs(spec)


def test_count():
    assert DatasetSpec("pairs", 0.5).count(10) == 5
    assert DatasetSpec("pairs", 1.5).count(10) == 15
    assert DatasetSpec("pairs", Fraction(-7)).count(10) == 7
    with pytest.raises(UserError, match=r"x.jsonl: proportion 0.01 of 10 rows is not one row"):
        DatasetSpec("pairs", 0.01, "x.jsonl").count(10)


def test_forms_of_specs():
    expected = [DatasetSpec("a", 0.5, "p"), DatasetSpec("b")]
    assert read_specs(["a:0.5:p", "b"]) == expected
    assert read_specs([("a", {"proportion": 0.5, "path": "p"}), ("b", 1.0)]) == expected
    assert read_specs({"a": {"proportion": 0.5, "path": "p"}, "b": 1.0}) == expected
    assert read_specs("b") == expected[1:]
