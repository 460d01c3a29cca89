from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.conversation import parse_dialogue
from safe_rlhf_panacea.data.preference import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.supervised import SupervisedDataset
from safe_rlhf_panacea.data.table import LeaveOut
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

START = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how? \n\nAssistant:"
ROW = {"chosen": f"{START} so:\n\n1. Human: no turn.", "rejected": f"{START} no"}


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("hh-rlhf-harmless-preference/train", "harmless"),
        ("hh-rlhf-harmless-preference/test", "harmless"),
        ("hh-rlhf-helpful-preference/train", "helpful"),
        ("hh-rlhf-helpful-preference/test", "helpful"),
        ("hh-harmless-preference/test", "harmless"),
        ("hh-preference/helpful-base/train", "helpful"),
    ],
)
def test_pairs(write: Callable[..., Path], name: str, objective: str) -> None:
    assert list(RawDataset.load(name, path=str(write([ROW])))) == [
        {
            "input": ["hi", "hello", "how?"],
            "answer": "so:\n\n1. Human: no turn.",
            "other_answer": "no",
            "labels": {objective: 0},
        }
    ]


@pytest.mark.parametrize("name", ["hh-rlhf-harmless-dialogue", "hh-dialogue/helpful-base"])
def test_supervised_text(write: Callable[..., Path], name: str) -> None:
    # Only the chosen dialogue counts.
    path = str(write([ROW | {"rejected": None}]))
    assert list(RawDataset.load(name, path=path)) == [
        {"input": ["hi", "hello", "how?"], "answer": "so:\n\n1. Human: no turn."}
    ]


def test_one_turn_and_no_blank_line_before_it() -> None:
    assert parse_dialogue("Human: a\n\nAssistant: b") == (["a"], "b")


@pytest.mark.parametrize(
    ("dialogue", "reason"),
    [
        ("no turn at all", "speakers that do not take turns"),
        ("well\n\nHuman: a\n\nAssistant: b", "speakers that do not take turns"),
        ("\n\nHuman: a", "speakers that do not take turns"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "speakers that do not take turns"),
        ("\n\nHuman: a\n\nHuman: b", "speakers that do not take turns"),
        ("\n\nAssistant: a\n\nHuman: b", "speakers that do not take turns"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "speakers that do not take turns"),
        ("\n\nHuman: \n\nAssistant: b", "blank turn"),
        ("\n\nHuman: a\n\nAssistant: ", "blank response"),
    ],
)
def test_dialogues_of_no_use(dialogue: str, reason: str) -> None:
    with pytest.raises(LeaveOut, match=f"^{reason}$"):
        parse_dialogue(dialogue)


def test_useless_pairs_are_counted(write: Callable[..., Path]) -> None:
    rows = [
        ROW,
        ROW | {"rejected": ROW["rejected"].replace("hello", "good day")},
        ROW | {"rejected": "\n\nHuman: how?\n\nAssistant: no"},
        ROW | {"rejected": START},
        ROW | {"rejected": ROW["chosen"]},
        ROW | {"chosen": None},
    ]
    raw = RawDataset.load("hh-rlhf-harmless-preference/train", path=str(write(rows)))
    assert len(raw) == 1
    assert raw.left_out == {
        "dialogues that part before the last answer": 2,
        "blank response": 1,
        "identical responses": 1,
        "blank dialogue": 1,
    }


def test_another_schema(write: Callable[..., Path]) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(UserError, match=r"data\.jsonl:1: chosen is list; it is a string"):
        RawDataset.load(
            "hh-harmless-preference/test", path=str(write([ROW | {"chosen": messages}]))
        )


def test_both_data_sets_train_one_model(write: Callable[..., Path]) -> None:
    path = write([ROW])
    specs = [f"hh-rlhf-helpful-preference/train:1:{path}"]
    specs += [f"hh-rlhf-harmless-preference/train:1:{path}"]
    pairs = PreferenceDataset(specs, tiny_tokenizer())
    assert pairs.labels.tolist() == [[1, 0], [0, 1]]
    text = SupervisedDataset([f"hh-rlhf-harmless-dialogue:1:{path}"], tiny_tokenizer())
    assert text.tokenizer.decode(text[0]["input_ids"]).startswith(
        "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:hello</s>USER: how? ASSISTANT:so:"
    )
