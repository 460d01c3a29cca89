from __future__ import annotations

import numpy as np
import pytest

from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset, RawSample, labels_of
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    monkeypatch.setattr(RawDataset, "_registry", dict(RawDataset._registry))


def define(name, *aliases):
    class Letters(RawDataset):
        NAME = name
        ALIASES = aliases

        def __init__(self, path=None):
            self.path = path

        def __getitem__(self, index):
            return {"input": "abcde"[index]}

        def __len__(self):
            return 5

    return Letters


def test_registered_by_name_and_alias():
    cls = define("letters", "abc")
    assert type(RawDataset.load("letters")) is type(RawDataset.load("abc")) is cls
    assert RawDataset.load("letters", path="p").path == "p"
    assert [sample["input"] for sample in RawDataset.make("letters")] == list("abcde")
    assert RawDataset.load("letters").where(1) == "data set 'letters', row 2"

    class Child(cls):
        pass

    assert type(RawDataset.load("letters")) is cls  # a name of its own is needed
    with pytest.raises(UserError, match=r"unknown data set 'pears'; .*pairs, prompts, supervised"):
        RawDataset.load("pears")
    with pytest.raises(UserError, match=r"a folder or .* is given as auto:1:my/folder$"):
        RawDataset.load("my/folder")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("new", "pairs"), "already a data set named"),
        (("new", "new"), "already a data set named"),
        (("",), "is no name for a data set"),
        (("a:b",), "is no name for a data set"),
    ],
)
def test_names_that_cannot_be_given(names, message):
    with pytest.raises(ValueError, match=message):
        define(*names)
    assert "new" not in RawDataset.names()  # nothing is half registered


def test_safe_rlhf_flags_are_labels():
    class Flags(RawDataset):
        NAME = "flags"

        def __getitem__(self, index):
            sample: RawSample = {"input": "q", "answer": "x", "other_answer": "y"}
            return {**sample, "better": False, "safer": True}

        def __len__(self):
            return 1

    dataset = PreferenceDataset(["flags"], tiny_tokenizer())
    # the second answer is more helpful, the first more harmless
    assert dataset[0]["labels"].tolist() == [1.0, -1.0]
    assert tiny_tokenizer().decode(dataset[0]["better_input_ids"]).endswith("ASSISTANT:y</s>")
    whole = {"labels": {"helpful": 1.0, "kind": None, "brief": np.int64(1)}, "safer": np.True_}
    assert labels_of(whole) == {"helpful": 1, "kind": None, "brief": 1, "harmless": 0}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"labels": {"helpful": 0, "kind": True}}, "label 'kind' is True; it is 0 or 1"),
        ({"labels": {"helpful": "1"}}, "label 'helpful' is '1'; it is 0 or 1"),
        ({"better": "False"}, "better is 'False'; it is true or false"),
        ({"better": True, "safer": None}, "safer is None; it is true or false"),
    ],
)
def test_labels_of_another_type(sample, message):
    with pytest.raises(UserError, match=f"here: {message}"):
        labels_of({"input": "a", "answer": "b", "other_answer": "c", **sample}, "here")
