from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from safe_rlhf_panacea.data.preference import PreferenceDataset, labels_of
from safe_rlhf_panacea.data.raw import RawDataset, RawSample, split_indices
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    before = dict(RawDataset._registry)
    yield
    RawDataset._registry.clear()
    RawDataset._registry.update(before)


def define(name: str, *aliases: str) -> type[RawDataset]:
    class Letters(RawDataset):
        NAME = name
        ALIASES = aliases

        def __init__(self, path: str | None = None) -> None:
            self.path = path

        def __getitem__(self, index: int) -> RawSample:
            return {"input": "abcde"[index]}

        def __len__(self) -> int:
            return 5

    return Letters


def test_registered_by_name_and_alias() -> None:
    cls = define("letters", "abc")
    assert type(RawDataset.load("letters")) is cls
    assert type(RawDataset.load("abc")) is cls
    assert RawDataset.load("letters", path="p").path == "p"
    assert [sample["input"] for sample in RawDataset.make("letters")] == list("abcde")
    assert RawDataset.load("letters").where(1) == "data set 'letters', row 2"


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'pears'; .*pairs, prompts, supervised"):
        RawDataset.load("pears")
    with pytest.raises(UserError, match=r"a folder or .* is given as auto:1:my/folder$"):
        RawDataset.load("my/folder")


@pytest.mark.parametrize("names", [("pairs",), ("new", "pairs"), ("new", "new")])
def test_a_name_is_given_once(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="already a data set named"):
        define(*names)
    assert "new" not in RawDataset._registry  # nothing is half registered


@pytest.mark.parametrize("name", ["", "a:b"])
def test_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a data set"):
        define(name)


def test_subclass_without_its_own_name_is_not_registered_again() -> None:
    cls = define("letters")

    class Child(cls):
        pass

    assert type(RawDataset.load("letters")) is cls


def test_split_indices() -> None:
    train, test = split_indices(10, 0.3, shuffle=True, seed=1)
    assert (len(train), len(test)) == (7, 3)
    assert sorted(train + test) == list(range(10))
    assert split_indices(10, 0.3, shuffle=True, seed=1) == (train, test)
    assert split_indices(10, 0.3, shuffle=True, seed=2) != (train, test)
    assert split_indices(4, 0.5, shuffle=False, seed=0) == ([0, 1], [2, 3])


@pytest.mark.parametrize(
    ("rows", "ratio"), [(10, 0.01), (10, 0.99), (10, 0.0), (10, 1.5), (1, 0.5)]
)
def test_both_parts_of_a_split_have_rows(rows: int, ratio: float) -> None:
    with pytest.raises(UserError, match="both parts need at least one"):
        split_indices(rows, ratio, shuffle=True, seed=0)


def test_raw_split() -> None:
    define("letters")
    train, test = RawDataset.load("letters").split_train_test(0.4, seed=3)
    letters = [sample["input"] for part in (train, test) for sample in part]
    assert len(test) == 2
    assert sorted(letters) == list("abcde")


def test_safe_rlhf_flags_are_labels() -> None:
    class Flags(RawDataset):
        NAME = "flags"

        def __getitem__(self, index: int) -> RawSample:
            sample: RawSample = {"input": "q", "answer": "x", "other_answer": "y"}
            return {**sample, "better": False, "safer": True}

        def __len__(self) -> int:
            return 1

    dataset = PreferenceDataset(["flags"], tiny_tokenizer())
    # the second answer is more helpful, the first more harmless
    assert dataset[0]["labels"].tolist() == [1.0, -1.0]
    assert tiny_tokenizer().decode(dataset[0]["better_input_ids"]).endswith("ASSISTANT:y</s>")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"labels": {"helpful": 0, "kind": True}}, "label 'kind' is True; it is 0 or 1"),
        ({"labels": {"helpful": "1"}}, "label 'helpful' is '1'; it is 0 or 1"),
        ({"labels": {"helpful": 2}}, "label 'helpful' is 2; it is 0 or 1"),
        ({"better": "False"}, "better is 'False'; it is true or false"),
        ({"better": True, "safer": None}, "safer is None; it is true or false"),
    ],
)
def test_labels_of_another_type(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"here: {message}"):
        labels_of({"input": "a", "answer": "b", "other_answer": "c", **sample}, "here")
    whole = {"labels": {"helpful": 1.0, "kind": None, "brief": np.int64(1)}, "safer": np.True_}
    assert labels_of(whole) == {"helpful": 1, "kind": None, "brief": 1, "harmless": 0}
    assert labels_of({"better": False, "safer": 1}) == {"helpful": 1, "harmless": 0}
