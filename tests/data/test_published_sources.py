"""Where published data sets look: the hub (only what they would ask of it), and copies of it."""

from __future__ import annotations

import gzip
import json
import lzma

import pytest

from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("quiet_local_cache")


def pku(prompt):
    pair = {"prompt": prompt, "response_0": "a", "response_1": "b"}
    return pair | {"better_response_id": 0, "safer_response_id": 1, "is_response_0_safe": True}


def hh(prompt):
    start = f"\n\nHuman: {prompt}\n\nAssistant:"
    return {"chosen": f"{start} a", "rejected": f"{start} b"}


def beavertails(prompt):
    return {"prompt": prompt, "response": "a", "category": {"violence": True}, "is_safe": False}


def inputs(name, path=None):
    return [sample["input"] for sample in RawDataset.load(name, path=path and str(path))]


@pytest.fixture
def copy(tmp_path):
    """Write a copy of a repository: one file for each path, with one row for each prompt."""

    def write_copy(files):
        pack = {".gz": gzip.compress, ".xz": lzma.compress, ".jsonl": bytes}
        for name, rows in files.items():
            path = tmp_path / "copy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            path.write_bytes(pack[path.suffix](lines.encode()))
        return tmp_path / "copy"

    return write_copy


PKU = "PKU-Alignment/PKU-SafeRLHF"
HH = "Anthropic/hh-rlhf"
HARMLESS, HELPFUL = {"data_dir": "harmless-base"}, {"data_dir": "helpful-base"}


@pytest.mark.parametrize(
    ("name", "hub", "options"),
    [
        ("PKU-SafeRLHF/train", PKU, {"split": "train"}),
        ("PKU-SafeRLHF/test", PKU, {"split": "test"}),
        ("PKU-SafeRLHF-1.0/test", PKU, {"split": "test"}),
        ("PKU-SafeRLHF-v0/train", PKU, {"split": "train", "revision": "v0"}),
        ("PKU-SafeRLHF-v0/test", PKU, {"split": "test", "revision": "v0"}),
        ("PKU-SafeRLHF-30K/train", f"{PKU}-30K", {"split": "train"}),
        ("PKU-SafeRLHF-30K/test", f"{PKU}-30K", {"split": "test"}),
        ("PKU-SafeRLHF-10K/train", f"{PKU}-10K", {"split": "train"}),
        ("BeaverTails/330k_train", "PKU-Alignment/BeaverTails", {"split": "330k_train"}),
        ("BeaverTails/330k_test", "PKU-Alignment/BeaverTails", {"split": "330k_test"}),
        ("BeaverTails/30k_train", "PKU-Alignment/BeaverTails", {"split": "30k_train"}),
        ("BeaverTails/30k_test", "PKU-Alignment/BeaverTails", {"split": "30k_test"}),
        ("hh-rlhf-harmless-preference/train", HH, {"split": "train"} | HARMLESS),
        ("hh-rlhf-harmless-preference/test", HH, {"split": "test"} | HARMLESS),
        ("hh-rlhf-helpful-preference/train", HH, {"split": "train"} | HELPFUL),
        ("hh-rlhf-helpful-preference/test", HH, {"split": "test"} | HELPFUL),
        ("hh-rlhf-harmless-dialogue", HH, {"split": "train"} | HARMLESS),
        ("hh-rlhf-helpful-dialogue", HH, {"split": "train"} | HELPFUL),
        ("UltraFeedback", "openbmb/UltraFeedback", {"split": "train"}),
        ("HelpSteer2/train", "nvidia/HelpSteer2", {"split": "train"}),
        ("HelpSteer2/validation", "nvidia/HelpSteer2", {"split": "validation"}),
        ("alpaca", "tatsu-lab/alpaca", {"split": "train"}),
    ],
)
def test_what_is_asked_of_the_hub(monkeypatch, name, hub, options):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([{"nothing": "of use"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=f"^{hub}.*, row 1: no field"):
        RawDataset.load(name)
    assert asked == [((hub,), options)]


def test_rows_of_the_hub(monkeypatch):
    table = datasets.Dataset.from_list([pku("p"), pku(" "), pku("q")])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: table)
    raw = RawDataset.load("PKU-SafeRLHF-v0/test")
    assert [sample["input"] for sample in raw] == ["p", "q"]
    assert raw.where(1) == "PKU-Alignment/PKU-SafeRLHF@v0#test, row 3"
    harmless = datasets.Dataset.from_list([hh("p")])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: harmless)
    raw = RawDataset.load("hh-harmless-preference/test")
    assert raw.where(0) == "Anthropic/hh-rlhf/harmless-base#test, row 1"


def test_another_data_set_of_the_hub(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return datasets.Dataset.from_list([hh("p")])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert inputs("hh-rlhf-helpful-preference/test", "me/mirror") == [["p"]]
    assert inputs("hh-rlhf-helpful-preference/test", "me/mirror#train") == [["p"]]
    expected = [{"split": split, "data_dir": "helpful-base"} for split in ("test", "train")]
    assert asked == [(("me/mirror",), options) for options in expected]


def test_parquet(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list([pku(split)]).to_parquet(str(path))
    assert inputs("PKU-SafeRLHF-30K/train", tmp_path / "copy") == ["train"]
    assert inputs("PKU-SafeRLHF-30K/test", tmp_path / "copy") == ["test"]
    assert inputs("PKU-SafeRLHF-30K/train", path) == ["test"]


def test_saved_folders(tmp_path):
    splits = {split: datasets.Dataset.from_list([pku(split)]) for split in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "splits"))
    assert inputs("PKU-SafeRLHF/test", tmp_path / "splits") == ["test"]
    splits["test"].save_to_disk(str(tmp_path / "one"))
    assert inputs("PKU-SafeRLHF/train", tmp_path / "one") == ["test"]  # there is no other


def test_a_copy_without_the_split(copy):
    folder = copy({"train.jsonl": [pku("p")]})
    with pytest.raises(UserError, match="there is no split 'test'; there are: train"):
        RawDataset.load("PKU-SafeRLHF/test", path=str(folder))


MODELS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")
HH_PARTS = ("harmless-base", "helpful-base", "helpful-online")
SPLITS, SIZES = ("train", "test"), ("330k", "30k")
HELPFUL_TEST = "hh-rlhf-helpful-preference/test"
# the files of a copy; what is found below which path, by name of the data set
COPIES = {
    "a file for each split": (
        {"train.jsonl.xz": [pku("p"), pku("q")], "test.jsonl.xz": [pku("r")]},
        [
            ("PKU-SafeRLHF-v0/train", "", ["p", "q"]),
            ("PKU-SafeRLHF-v0/test", "", ["r"]),
            ("PKU-SafeRLHF-v0/test", "#train", ["p", "q"]),
            ("PKU-SafeRLHF-v0/train", "/test.jsonl.xz", ["r"]),  # a file is whole
        ],
    ),
    "folders that belong together": (
        {f"data/{model}/{s}.jsonl": [pku(f"{model} {s}")] for model in MODELS for s in SPLITS},
        [
            ("PKU-SafeRLHF/train", "", [f"{model} train" for model in MODELS]),
            ("PKU-SafeRLHF/test", "", [f"{model} test" for model in MODELS]),
            ("PKU-SafeRLHF/test", "/data/Alpaca-7B", ["Alpaca-7B test"]),
        ],
    ),
    "folders that do not": (
        {f"{part}/{s}.jsonl.gz": [hh(part + s)] for part in HH_PARTS for s in SPLITS},
        [
            ("hh-rlhf-harmless-preference/train", "", [["harmless-basetrain"]]),
            (HELPFUL_TEST, "", [["helpful-basetest"]]),
            (HELPFUL_TEST, "/helpful-online", [["helpful-onlinetest"]]),
            (HELPFUL_TEST, "#train", [["helpful-basetrain"]]),
        ],
    ),
    "two sizes": (
        {f"round0/{size}/{s}.jsonl.gz": [beavertails(size + s)] for size in SIZES for s in SPLITS},
        [(f"BeaverTails/{size}_{s}", "", [size + s]) for size in SIZES for s in SPLITS],
    ),
}


@pytest.mark.parametrize("case", COPIES)
def test_copies(copy, case):
    files, found = COPIES[case]
    folder = copy(files)
    for name, below, expected in found:
        assert sorted(inputs(name, f"{folder}{below}")) == expected
