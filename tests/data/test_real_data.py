"""HelpSteer2's pairs and hh-rlhf, found through the environment variable PANACEA_DATA_DIR."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.datasets import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset
from tests.tiny import tiny_tokenizer

DATA_DIR = os.environ.get("PANACEA_DATA_DIR")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA_DIR, reason="PANACEA_DATA_DIR is not set"),
]
OBJECTIVES = ("helpfulness", "verbosity")


@pytest.mark.parametrize(
    ("split", "pairs", "skipped", "conflicting"),
    [("train", 2265, 1319, 314), ("test", 538, 259, 80)],
)
def test_helpsteer2(split, pairs, skipped, conflicting):
    path = Path(DATA_DIR or "") / f"helpsteer2-pairs-{split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    labels = [[row[f"better_{name}"] for name in OBJECTIVES] for row in rows]
    kept = [(row, label) for row, label in zip(rows, labels, strict=True) if label != [None, None]]
    assert len(kept) == pairs  # what the file says, read here without the package
    assert len(rows) - len(kept) == skipped
    assert sum(set(label) == {0, 1} for _, label in kept) == conflicting

    dataset = PreferenceDataset(
        [f"pairs:1:{path}"], tiny_tokenizer(1_000_000), objectives=OBJECTIVES
    )
    assert (len(dataset), dataset.skipped) == (pairs, skipped)
    labels = (dataset[index]["labels"].tolist() for index in range(len(dataset)))
    assert sum(sorted(label) == [-1, 1] for label in labels) == conflicting
    assert (dataset.too_long, dataset.identical) == (0, 0)
    for index in range(0, pairs, 97):
        row, label = kept[index]
        first = label[0] if label[0] is not None else label[1]
        text = f"BEGINNING OF CONVERSATION: USER: {row['prompt']} ASSISTANT:"
        text += row[f"response_{first}"] + "</s>"
        expected = dataset.tokenizer(text)["input_ids"]
        assert dataset[index]["better_input_ids"].tolist() == expected


def turns_alternate(dialogue):
    """Read without the package: paragraphs that begin with a speaker."""
    speakers = ("Human:", "Assistant:")
    found = [p.split()[0] for p in dialogue.split("\n\n") if p.startswith(speakers)]
    return found == list(speakers) * (len(found) // 2)


def test_hh_rlhf():
    path = Path(DATA_DIR or "") / "hh-rlhf-harmless-base-test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    turns = [row for row in rows if turns_alternate(row["chosen"])]
    turns = [row for row in turns if turns_alternate(row["rejected"])]
    ends = [[row[key].rpartition("\n\nAssistant:") for key in row] for row in turns]
    kept = [
        (row, [answer.strip() for _, _, answer in parts])
        for row, parts in zip(turns, ends, strict=True)
        if parts[0][0] == parts[1][0] and all(answer.strip() for _, _, answer in parts)
    ]
    assert (len(rows), len(turns), len(kept)) == (2312, 2303, 2299)

    raw = RawDataset.load("hh-rlhf-harmless-preference/test", path=str(path))
    assert raw.left_out == {"speakers that do not take turns": 9, "blank response": 4}
    assert len(raw) == len(kept)
    for sample, (row, answers) in zip(raw, kept, strict=True):
        assert [sample["answer"], sample["other_answer"]] == answers
        assert sample["labels"] == {"harmless": 0}
        said = [*sample["input"], sample["answer"]]
        speakers = ("\n\nHuman:", "\n\nAssistant:") * (len(said) // 2)
        whole = " ".join(f"{speaker} {turn}" for speaker, turn in zip(speakers, said, strict=True))
        assert whole.split() == row["chosen"].split()  # nothing is lost but blanks

    pairs = PreferenceDataset(
        [f"hh-rlhf-harmless-preference/test:1:{path}"],
        tiny_tokenizer(1_000_000),
        objectives=("harmless",),
    )
    assert (len(pairs), pairs.skipped, pairs.identical) == (2299, 0, 0)
