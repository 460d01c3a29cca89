from __future__ import annotations

import logging

import pytest

from safe_rlhf_panacea.data.raw import TAKEN, RawDataset
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.responses import OF_RUN, OURS, TRL

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


def test_the_chosen_responses_of_pairs(write):
    labels = [
        {"better_x": 0},
        {"better_x": 1, "better_y": 0},
        {},
        {"better_x": None, "better_y": 1},
    ]
    path = write([{**PAIR, **row} for row in labels])
    assert load("chosen", path) == [{"input": "q", "answer": "a"}, {"input": "q", "answer": "b"}]
    assert RawDataset.load("chosen", path=str(path)).where(1) == f"{path}:4"
    told = r"nothing of use in 1 rows: 1 \(no label, or labels that disagree\)"
    with pytest.raises(UserError, match=told):
        load("chosen", write([PAIR]))


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
        ({"response_0": ""}, "response_0 is blank"),
        ({"response_1": ["b"]}, "response_1 is list; it is a string"),
        ({"better_helpful": 2}, "better_helpful is 2; it is 0 or 1"),
        ({"better_helpful": "1"}, "better_helpful is '1'; it is 0 or 1"),
        ({"better_helpful": True}, "better_helpful is True; it is 0 or 1"),
        ({"better_helpful": 0.5}, "better_helpful is 0.5; it is 0 or 1"),
        ({"better_helpful": [0]}, r"better_helpful is \[0\]; it is 0 or 1"),
        ({"safer_response_id": -1}, "safer_response_id is -1; it is 0 or 1"),
    ],
)
def test_bad_rows_are_named(write, change, message):
    path = write([PAIR, {**PAIR, **change}])
    with pytest.raises(UserError, match=rf"data\.jsonl:2: {message}") as caught:
        load("pairs", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pairs", "chosen"])
def test_pairs_of_two_equal_responses_are_left_out_and_counted(write, caplog, name):
    same = {**PAIR, "response_1": "a", "better_helpful": 1}
    path = write([same, {**PAIR, "prompt": "r", "better_helpful": 0}, same])
    with caplog.at_level(logging.WARNING):
        raw = RawDataset.load(name, path=str(path))
    assert [sample["input"] for sample in raw] == ["r"]
    assert raw.where(0) == f"{path}:2"
    assert caplog.messages == [f"{path}: 3 rows gave 1 samples; left out: 2 (identical responses)"]
    told = r"data\.jsonl: nothing of use in 2 rows: 2 \(identical responses\)"
    with pytest.raises(UserError, match=told):
        load(name, write([same, same]))


def test_names_of_columns_that_are_taken(write):
    """Under these, reward functions are given something else."""
    assert {"input", *OURS, *TRL, *OF_RUN} == TAKEN
    for name in sorted(TAKEN):
        path = write([{"prompt": "q"}, {"prompt": "q", name: 0, "answer": 1, "labels": "z"}])
        with pytest.raises(
            UserError, match=rf"data\.jsonl:2: .* column '{name}' has a name .*: rename it"
        ):
            load("prompts", path)
    kept = load("prompts", write([{"prompt": "q", "answer": 1, "labels": "z", "place": [0]}]))
    assert kept[0] == {"input": "q", "answer": 1, "labels": "z", "place": [0]}


def test_missing_field(write):
    path = write([{"text": "q", "response": "a"}])
    told = r"data\.jsonl:1: no field 'prompt'; the row has: text, response; prompt needs prompt$"
    with pytest.raises(UserError, match=told):
        load("prompts", path)
    with pytest.raises(UserError, match=r"data\.jsonl:1: no field 'response'"):
        load("supervised", write([{"prompt": "q"}]))


def test_paths(tmp_path):
    with pytest.raises(UserError, match=r"data set 'pairs' needs a path: pairs:1:file\.jsonl"):
        RawDataset.load("pairs")
    for name in ("none.jsonl", "none.json.gz", "no/such/folder", "./none"):
        with pytest.raises(UserError, match=r"(none.*|folder): no such file"):
            load("pairs", tmp_path / name)
    path = tmp_path / "data.csv"
    path.write_text("prompt\nq\n")
    with pytest.raises(UserError, match=r"data\.csv: unknown kind of file; there are \.jsonl"):
        load("prompts", path)
