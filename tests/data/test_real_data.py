"""HelpSteer2's pairs and hh-rlhf, found through the environment variable PANACEA_DATA_DIR."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset
from tests.tiny import tiny_tokenizer

DATA_DIR = os.environ.get("PANACEA_DATA_DIR")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA_DIR, reason="PANACEA_DATA_DIR is not set"),
]
OBJECTIVES = ("helpfulness", "verbosity")


def read(name):
    """A file's path and rows, read without the package."""
    path = Path(DATA_DIR or "") / name
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return path, [json.loads(line) for line in file]


def test_helpsteer2():
    path, rows = read("helpsteer2-pairs-test.jsonl.gz")
    labels = [[row[f"better_{name}"] for name in OBJECTIVES] for row in rows]
    kept = [(row, label) for row, label in zip(rows, labels, strict=True) if label != [None, None]]
    conflicting = sum(set(label) == {0, 1} for _, label in kept)
    assert (len(rows), len(kept), conflicting) == (797, 538, 80)

    tokenizer = tiny_tokenizer(1_000_000)
    dataset = PreferenceDataset([f"pairs:1:{path}"], tokenizer, objectives=OBJECTIVES)
    assert len(dataset) == len(kept) and not dataset.left_out  # told are rows that have a label
    assert sum(sorted(item["labels"].tolist()) == [-1, 1] for item in dataset) == conflicting
    for index in range(0, len(kept), 97):
        row, label = kept[index]
        first = label[0] if label[0] is not None else label[1]
        text = f"BEGINNING OF CONVERSATION: USER: {row['prompt']} ASSISTANT:"
        expected = tokenizer(text + row[f"response_{first}"] + "</s>")["input_ids"]
        assert dataset[index]["better_input_ids"].tolist() == expected


def turns_alternate(dialogue):
    """Whether the paragraphs that begin with a speaker take turns."""
    speakers = ("Human:", "Assistant:")
    found = [p.split()[0] for p in dialogue.split("\n\n") if p.startswith(speakers)]
    return found == list(speakers) * (len(found) // 2)


def test_hh_rlhf():
    path, rows = read("hh-rlhf-harmless-base-test.jsonl.gz")
    turns = [row for row in rows if all(turns_alternate(row[key]) for key in row)]
    ends = [[row[key].rpartition("\n\nAssistant:") for key in row] for row in turns]
    kept = [
        (row, [answer.strip() for _, _, answer in parts])
        for row, parts in zip(turns, ends, strict=True)
        if parts[0][0] == parts[1][0] and all(answer.strip() for _, _, answer in parts)
    ]
    assert (len(rows), len(turns), len(kept)) == (2312, 2303, 2299)

    raw = RawDataset.load("hh-rlhf-harmless-preference/test", path=str(path))
    assert raw.left_out == {"speakers that do not take turns": 9, "blank response": 4}
    for sample, (row, answers) in zip(raw, kept, strict=True):
        assert [sample["answer"], sample["other_answer"]] == answers
        assert sample["labels"] == {"harmless": 0}
        said = [*sample["input"], sample["answer"]]
        speakers = ("\n\nHuman:", "\n\nAssistant:") * (len(said) // 2)
        whole = " ".join(f"{speaker} {turn}" for speaker, turn in zip(speakers, said, strict=True))
        assert whole.split() == row["chosen"].split()  # nothing is lost but blanks
