from __future__ import annotations

import logging

import pytest

from safe_rlhf_panacea.data.own import TAKEN
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards import responses

PAIR = {"prompt": "q", "response_0": "a", "response_1": "b"}


def load(name, path):
    return list(RawDataset.load(name, path=str(path)))


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


def test_prompts_and_supervised(write):
    path = write([{"prompt": "q", "response": "a"}, {"prompt": ["q", "a", "r"], "response": "b"}])
    assert load("prompts", path) == [  # with what a reward function may ask for
        {"input": "q", "response": "a"},
        {"input": ["q", "a", "r"], "response": "b"},
    ]
    assert load("supervised", path) == [
        {"input": "q", "answer": "a"},
        {"input": ["q", "a", "r"], "answer": "b"},
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
        ({"better_helpful": "1"}, "better_helpful is '1'; it is 0 or 1"),
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
    for name in sorted(TAKEN):
        path = write([row, row | {name: 0}])
        told = rf"data\.jsonl:2: .* column '{name}' has a name .*: rename it"
        with pytest.raises(UserError, match=told):
            load("prompts", path)
    kept = {"input": "q", "answer": 1, "labels": "z", "place": [0]}
    assert load("prompts", write([row])) == [kept]


def test_missing_fields_and_paths(write):
    told = r"data\.jsonl:1: no field 'prompt'; the row has: text, response; prompt needs prompt$"
    with pytest.raises(UserError, match=told):
        load("prompts", write([{"text": "q", "response": "a"}]))
    with pytest.raises(UserError, match=r"data set 'pairs' needs a path: pairs:1:file\.jsonl"):
        RawDataset.load("pairs")
