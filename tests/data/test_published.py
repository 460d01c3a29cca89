"""Published data sets: what is made of their rows, and which are read of the hub or a copy."""

from __future__ import annotations

import gzip
import json
import logging
import lzma

import pytest

from safe_rlhf_panacea.data import PreferenceDataset, PublishedDataset, raw
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from tests.data.published_rows import (
    ALPACA,
    ASPECTS,
    BAD,
    BEAVER,
    GOOD,
    HH,
    LOW,
    READ,
    V0,
    feedback,
    rated,
    sample,
    steer,
)
from tests.tiny import tiny_tokenizer

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("quiet_local_cache")


def without(row, field):
    return {key: value for key, value in row.items() if key != field}


@pytest.mark.parametrize("case", READ)
def test_what_is_made_of_rows(write, case):
    names, rows, samples, lines, left_out = READ[case]
    path = str(write(rows))
    for name in names:
        raw = RawDataset.load(name, path=path)
        assert list(raw) == samples
        assert [raw.where(i) for i in range(len(raw))] == [f"{path}:{line}" for line in lines]
        assert (raw.rows_read, raw.left_out) == (len(rows), left_out)
        if raw.KIND == "pairs":
            assert tuple(samples[0]["labels"]) == raw.OBJECTIVES


@pytest.mark.parametrize("missing", ["N/A", None, "", "nan", "four", []])
def test_what_is_no_rating_labels_nothing(write, missing):
    one, other = rated("a", "5", missing, "1", "1"), rated("b", "4", "2", 2, "1.0")
    del other["annotations"]["instruction_following"]
    raw = RawDataset.load("UltraFeedback", path=str(write([feedback(one, other)])))
    assert list(raw) == [sample(None, None, 1, None, names=ASPECTS)]


PKU_TEST, STEER = "PKU-SafeRLHF/test", "HelpSteer2/train"


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            PKU_TEST,
            [V0, V0, without(V0, "response_1")],
            ":3: no field 'response_1'; .*PKU-SafeRLHF needs prompt, response_0, ",
        ),
        (PKU_TEST, [V0, V0 | {"prompt": 7}], ":2: prompt is int; it is a string"),
        *(
            (PKU_TEST, [V0 | {"better_response_id": value}], ":1: .* it is a number or null")
            for value in ("1", True, [0])
        ),
        ("hh-harmless-preference/test", [HH | {"chosen": []}], ":1: chosen is list; it is a str"),
        ("alpaca", [without(ALPACA, "output")], ":1: no field 'output'; .* needs instruction, out"),
        ("alpaca", [ALPACA | {"input": 7}], ":1: input is int; it is a string"),
        (
            "BeaverTails/30k_test",
            [BEAVER | {"prompt": "q"}, {"question": "q"}],
            ":2: no field 'prompt'; the row has: question; BeaverTails needs prompt$",
        ),
        (
            STEER,
            [steer("q", "a", LOW), without(steer("q", "a", LOW), "verbosity")],
            ":2: no field 'verbosity'",
        ),
        (
            STEER,
            [steer("q", "a", LOW), steer("q", "b", (0, 1, "4", 0, 0))],
            ":1: coherence is '4'; it is a number or null",
        ),
        ("UltraFeedback", [feedback(completions="a")], ":1: completions is str; it is a list"),
        (
            "UltraFeedback",
            [feedback(BAD, GOOD), feedback("a", "b")],
            ":2: str where an object with the field 'response' belongs",
        ),
        (
            "UltraFeedback",
            [feedback({"response": "a"}, {"response": "b"})],
            ":1: no field 'annotations'",
        ),
    ],
)
def test_another_schema(write, name, rows, message):
    with pytest.raises(UserError, match=rf"data\.jsonl{message}") as caught:
        RawDataset.load(name, path=str(write(rows)))
    assert "\n" not in str(caught.value)


def test_one_line_says_what_was_left_out(write, caplog, monkeypatch):
    rows = [V0, V0 | {"prompt": ""}, *[V0 | {"response_1": "a"}] * 2]
    path = write(rows)
    with caplog.at_level(logging.WARNING):
        PreferenceDataset([f"{PKU_TEST}:1:{path}"], tiny_tokenizer())
    reasons = "2 (identical responses), 1 (blank prompt)"
    told = f"{PKU_TEST} ({path}): 4 rows gave 1 samples; left out: {reasons}"
    assert caplog.messages == [told]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # not on other processes, nor where there is none
        monkeypatch.setattr(raw, "is_main_process", lambda: False)
        RawDataset.load(PKU_TEST, path=str(path))
        monkeypatch.undo()
        RawDataset.load(PKU_TEST, path=str(write(rows[:1], "one.jsonl")))
    assert caplog.messages == []
    with pytest.raises(UserError) as caught:
        RawDataset.load(PKU_TEST, path=str(write(rows[1:])))
    assert str(caught.value).endswith(f"nothing of use in 3 rows: {reasons}")


def pku(prompt):
    return V0 | {"prompt": prompt}


def hh(prompt):
    start = f"\n\nHuman: {prompt}\n\nAssistant:"
    return {"chosen": f"{start} a", "rejected": f"{start} b"}


def inputs(name, path=None):
    return [sample["input"] for sample in RawDataset.load(name, path=path and str(path))]


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the hub, which answers with the rows that were put under a name."""
    rows, asked = {}, []

    def load_dataset(name, **options):
        asked.append((name, options))
        return datasets.Dataset.from_list(rows.get(name, [{"nothing": "of use"}]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return rows, asked


PKU, HH_NAME = "PKU-Alignment/PKU-SafeRLHF", "Anthropic/hh-rlhf"


def test_what_is_asked_of_the_hub(hub):
    classes = [cls for cls in RawDataset.registered() if issubclass(cls, PublishedDataset)]
    assert len(classes) == 21
    for cls in classes:
        more = {"revision": cls.REVISION, "data_dir": cls.FOLDER}
        with pytest.raises(UserError, match=f"^{cls.HUB}.*, row 1: no field"):
            RawDataset.load(cls.NAME)
        asked = {"split": cls.SPLIT} | {key: value for key, value in more.items() if value}
        assert hub[1][-1] == (cls.HUB, asked)
    assert hub[1][0] == ("PKU-Alignment/BeaverTails", {"split": "30k_test"})
    assert ("nvidia/HelpSteer2", {"split": "validation"}) in hub[1]
    assert {cls.LICENCE for cls in classes} == {"MIT", "CC BY 4.0", "CC BY-NC 4.0"}


def test_rows_of_the_hub(hub):
    rows, asked = hub
    rows |= {PKU: [pku("p"), pku(" "), pku("q")], HH_NAME: [hh("p")], "me/mirror": [hh("p")]}
    found = RawDataset.load("PKU-SafeRLHF-v0/test")
    assert [sample["input"] for sample in found] == ["p", "q"]
    assert found.where(1) == f"{PKU}@v0#test, row 3"
    found = RawDataset.load("hh-harmless-preference/test")
    assert found.where(0) == f"{HH_NAME}/harmless-base#test, row 1"
    for split in ("test", "train"):  # of another data set, unless named
        path = "me/mirror" + ("" if split == "test" else "#train")
        assert inputs("hh-rlhf-helpful-preference/test", path) == [["p"]]
        assert asked[-1] == ("me/mirror", {"split": split, "data_dir": "helpful-base"})


def test_parquet_and_saved_folders(tmp_path):
    splits = {split: datasets.Dataset.from_list([pku(split)]) for split in ("train", "test")}
    (tmp_path / "data").mkdir()
    for split, table in splits.items():
        table.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
        assert inputs(PKU_TEST, tmp_path / "data" / f"{split}-00000-of-00001.parquet") == [split]
    assert inputs(PKU_TEST, tmp_path) == ["test"]
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    assert inputs(PKU_TEST, tmp_path / "splits") == ["test"]
    splits["train"].save_to_disk(tmp_path / "one")
    assert inputs(PKU_TEST, tmp_path / "one") == ["train"]  # there is no other


SIZES, SPLITS = ("330k", "30k"), ("train", "test")
HELPFUL_TEST = "hh-rlhf-helpful-preference/test"
PARTS = [f"{part}-base/{split}" for part in ("harmless", "helpful") for split in SPLITS]
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
        {f"data/{model}/{s}.jsonl": [pku(f"{model} {s}")] for model in "AB" for s in SPLITS},
        [("PKU-SafeRLHF/train", "", ["A train", "B train"]), (PKU_TEST, "/data/A", ["A test"])],
    ),
    "folders that do not": (
        {f"{part}.jsonl.gz": [hh(part)] for part in [*PARTS, "helpful-online/test"]},
        [
            ("hh-rlhf-harmless-preference/train", "", [["harmless-base/train"]]),
            (HELPFUL_TEST, "", [["helpful-base/test"]]),
            (HELPFUL_TEST, "/helpful-online", [["helpful-online/test"]]),
            (HELPFUL_TEST, "#train", [["helpful-base/train"]]),
        ],
    ),
    "two sizes": (
        {
            f"round0/{size}/{s}.jsonl.gz": [BEAVER | {"prompt": size + s}]
            for size in SIZES
            for s in SPLITS
        },
        [(f"BeaverTails/{size}_{s}", "", [size + s]) for size in SIZES for s in SPLITS],
    ),
}


@pytest.mark.parametrize("case", COPIES)
def test_copies(tmp_path, case):
    files, found = COPIES[case]
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".jsonl": bytes}
    for name, rows in files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(pack[path.suffix](lines.encode()))
    for name, below, expected in found:
        assert sorted(inputs(name, f"{tmp_path}/copy{below}")) == expected
