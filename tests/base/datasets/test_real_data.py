"""HelpSteer2's pairs, found through the environment variable PANACEA_DATA_DIR."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from safe_rlhf_panacea.base.datasets.preference import PreferenceDataset
from safe_rlhf_panacea.errors import UserError
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
def test_helpsteer2(split: str, pairs: int, skipped: int, conflicting: int) -> None:
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
    assert (len(dataset), dataset.skipped, dataset.conflicting) == (pairs, skipped, conflicting)
    assert (dataset.too_long, dataset.identical) == (0, 0)
    for index in range(0, pairs, 97):
        row, label = kept[index]
        first = label[0] if label[0] is not None else label[1]
        text = f"BEGINNING OF CONVERSATION: USER: {row['prompt']} ASSISTANT:"
        text += row[f"response_{first}"] + "</s>"
        expected = dataset.tokenizer(text)["input_ids"]
        assert dataset[index]["better_input_ids"].tolist() == expected


def test_foreign_fields_are_named() -> None:
    path = Path(DATA_DIR or "") / "hh-rlhf-harmless-base-test.jsonl.gz"
    with pytest.raises(UserError, match=r":1: no field 'prompt'; the row has: chosen, rejected"):
        PreferenceDataset([f"pairs:1:{path}"], tiny_tokenizer())
