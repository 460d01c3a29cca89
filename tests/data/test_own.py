"""Data sets by name, labels, and this package's own formats."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.data.own import TAKEN
from safe_rlhf_panacea.data.raw import RawDataset, labels_of
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards import responses
from tests.tiny import tiny_tokenizer

PAIR = {"prompt": "q", "response_0": "a", "response_1": "b"}


def load(name, path):
    return list(RawDataset.load(name, path=str(path)))


def define(name, *aliases, samples=tuple({"input": letter} for letter in "abcde")):
    def init(self, path=None):
        self.path = path

    about = {"__init__": init, "__len__": lambda _: len(samples)}
    about |= {"__getitem__": lambda _, index: samples[index]}
    return type("New", (RawDataset,), {"NAME": name, "ALIASES": aliases, **about})


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(RawDataset, "registry", dict(RawDataset.registry))


@pytest.mark.usefixtures("registry")
def test_registered_by_name_and_alias():
    cls = define("letters", "abc")
    assert type(RawDataset.load("letters")) is type(RawDataset.load("abc")) is cls
    assert RawDataset.load("letters", path="p").path == "p"
    assert [sample["input"] for sample in RawDataset.make("letters")] == list("abcde")
    assert RawDataset.load("letters").where(1) == "data set 'letters', row 2"
    type("Child", (cls,), {})
    assert type(RawDataset.load("letters")) is cls  # a name of its own is needed
    with pytest.raises(UserError, match=r"unknown data set 'pears'; .*pairs, prompts, supervised"):
        RawDataset.load("pears")
    with pytest.raises(UserError, match=r"a folder or .* is given as auto:1:my/folder$"):
        RawDataset.load("my/folder")
    for names, message in [
        (("new", "pairs"), "already a data set named"),
        (("new", "new"), "already a data set named"),
        (("",), "is no name for a data set"),
        (("a:b",), "is no name for a data set"),
    ]:
        with pytest.raises(ValueError, match=message):
            define(*names)
        assert "new" not in RawDataset.registry  # nothing is half registered


@pytest.mark.usefixtures("registry")
def test_safe_rlhf_flags_are_labels():
    flags = {"better": False, "safer": True}
    define("flags", samples=[{"input": "q", "answer": "x", "other_answer": "y", **flags}])
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
        labels_of(sample, "here")


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"better_x": 1, "better_y": None, "source": "x"}, {"x": 1, "y": None}),
        # Safe-RLHF's fields, before which this package's own go
        ({"better_response_id": 0, "safer_response_id": 1}, {"helpful": 0, "harmless": 1}),
        ({"better_helpful": 1, "better_response_id": 0}, {"helpful": 1}),
        ({"better_response_id": 0, "better_helpful": 1}, {"helpful": 1}),
        # as tables have them
        ({"better_x": 1.0, "better_y": float("nan")}, {"x": 1, "y": None}),
    ],
)
def test_pairs(write, fields, labels):
    expected = {"input": "q", "answer": "a", "other_answer": "b", "labels": labels}
    assert load("pairs", write([PAIR | fields])) == [expected]


@pytest.mark.parametrize("name", ["pairs", "chosen", "prompts", "auto"])
def test_a_data_set_can_be_sent_to_another_process(name, write):
    data = RawDataset.load(name, path=str(write([{**PAIR, "better_helpful": 1}])))
    copy = pickle.loads(pickle.dumps(data))
    assert list(copy) == list(data) and copy.where(0) == data.where(0)


def test_prompts_and_supervised(write):
    path = write([{"prompt": "q", "response": "a"}, {"prompt": ["q", "a", "r"], "response": "b"}])
    for name, column in {"prompts": "response", "supervised": "answer"}.items():
        assert load(name, path) == [  # prompts with what a reward function may ask for
            {"input": "q", column: "a"},
            {"input": ["q", "a", "r"], column: "b"},
        ]


def test_the_chosen_responses_of_pairs(write, caplog):
    labels = [
        {"better_x": 0},
        {"better_x": 1, "better_y": 0},
        {},
        {"better_x": None, "better_y": 1},
        {"better_x": 0, "response_1": "a"},
    ]
    path = write([{**PAIR, **row} for row in labels])
    with caplog.at_level(logging.WARNING):
        raw = RawDataset.load("chosen", path=str(path))
    assert list(raw) == [{"input": "q", "answer": "a"}, {"input": "q", "answer": "b"}]
    assert raw.where(1) == f"{path}:4"
    reasons = "2 (no label, or labels that disagree), 1 (identical responses)"
    assert caplog.messages == [f"{path}: 5 rows gave 2 samples; left out: {reasons}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " \n"}, "prompt is blank"),
        ({"prompt": None}, "no field 'prompt'; the row has: prompt, response_0"),
        ({"prompt": 7}, "prompt is int; it is a string"),
        ({"prompt": []}, "prompt has 0 turns; it has an odd number"),
        ({"prompt": ["q", "a"]}, "prompt has 2 turns; it has an odd number"),
        ({"prompt": ["q", "", "r"]}, "prompt is blank"),
        ({"prompt": "\ud800"}, "prompt has half a surrogate pair"),
        ({"response_1": ["b"]}, "response_1 is list; it is a string"),
        ({"better_helpful": 2}, "better_helpful is 2; it is 0 or 1"),
        ({"better_helpful": [0]}, r"better_helpful is \[0\]; it is 0 or 1"),
        ({"safer_response_id": -1}, "safer_response_id is -1; it is 0 or 1"),
    ],
)
def test_bad_rows_are_named(write, change, message):
    path = write([PAIR, {**PAIR, **change}])
    with pytest.raises(UserError, match=rf"data\.jsonl:2: {message}") as caught:
        load("pairs", path)
    assert "\n" not in str(caught.value)


def test_names_of_columns_that_are_taken(write):
    """Under these, reward functions are given something else."""
    assert {"input", *responses.OURS, *responses.TRL, *responses.OF_RUN} == TAKEN
    row = {"prompt": "q", "answer": 1, "labels": "z", "place": [0]}
    for name in ("input", "step"):
        told = rf"data\.jsonl:2: .* column '{name}' has a name .*: rename it"
        with pytest.raises(UserError, match=told):
            load("prompts", write([row, row | {name: 0}]))
    kept = {"input": "q", "answer": 1, "labels": "z", "place": [0]}
    assert load("prompts", write([row])) == [kept]


def test_missing_fields_and_paths(write):
    told = r"data\.jsonl:1: no field 'prompt'; the row has: text, response; prompt needs prompt$"
    with pytest.raises(UserError, match=told):
        load("prompts", write([{"text": "q", "response": "a"}]))
    with pytest.raises(UserError, match=r"data set 'pairs' needs a path: pairs:1:file\.jsonl"):
        RawDataset.load("pairs")
