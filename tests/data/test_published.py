"""Published data sets: what is made of their rows, and what is left out or refused."""

from __future__ import annotations

import logging

import pytest

from safe_rlhf_panacea.data import raw
from safe_rlhf_panacea.data.datasets import PreferenceDataset, PromptOnlyDataset, SupervisedDataset
from safe_rlhf_panacea.data.published import PublishedDataset
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
        assert raw.rows_read == len(rows)
        assert raw.left_out == left_out
        if raw.KIND == "pairs":
            assert tuple(samples[0]["labels"]) == raw.OBJECTIVES


@pytest.mark.parametrize("missing", ["N/A", None, "", "nan", "four", []])
def test_what_is_no_rating_labels_nothing(write, missing):
    one, other = rated("a", "5", missing, "1", "1"), rated("b", "4", "2", 2, "1.0")
    del other["annotations"]["instruction_following"]
    raw = RawDataset.load("UltraFeedback", path=str(write([feedback(one, other)])))
    assert list(raw) == [sample(None, None, 1, None, names=ASPECTS)]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        *(
            (
                "PKU-SafeRLHF/test",
                [V0, V0, without(V0, field)],
                f":3: no field '{field}'; .*PKU-SafeRLHF needs prompt, response_0, ",
            )
            for field in ("prompt", "response_1", "better_response_id")
        ),
        *(
            ("PKU-SafeRLHF/test", [V0 | {"better_response_id": value}], "it is a number or null")
            for value in ("1", True, [0])
        ),
        ("PKU-SafeRLHF/test", [V0, V0 | {"prompt": 7}], ":2: prompt is int; it is a string"),
        ("hh-harmless-preference/test", [HH | {"chosen": []}], ":1: chosen is list; it is a str"),
        ("alpaca", [without(ALPACA, "output")], ":1: no field 'output'; .* needs instruction, out"),
        ("alpaca", [ALPACA | {"input": 7}], ":1: input is int; it is a string"),
        (
            "BeaverTails/30k_test",
            [BEAVER | {"prompt": "q"}, {"question": "q"}],
            ":2: no field 'prompt'; the row has: question; BeaverTails needs prompt$",
        ),
        (
            "HelpSteer2/train",
            [steer("q", "a", LOW), without(steer("q", "a", LOW), "verbosity")],
            ":2: no field 'verbosity'",
        ),
        (
            "HelpSteer2/train",
            [steer("q", "a", LOW), steer("q", "b", (0, 1, "4", 0, 0))],
            ":1: coherence is '4'; it is a number or null",
        ),
        ("UltraFeedback", [{"instruction": "q"}], ":1: no field 'completions'"),
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
    with pytest.raises(UserError, match=rf"data\.jsonl.*{message}") as caught:
        RawDataset.load(name, path=str(write(rows)))
    assert "\n" not in str(caught.value)


def test_one_line_says_what_was_left_out(write, caplog, monkeypatch):
    name, rows = "PKU-SafeRLHF/test", [V0, V0 | {"prompt": ""}, *[V0 | {"response_1": "a"}] * 2]
    path = write(rows)
    with caplog.at_level(logging.WARNING):
        PreferenceDataset([f"{name}:1:{path}"], tiny_tokenizer())
    assert caplog.messages == [
        f"{name} ({path}): 4 rows gave 1 samples; "
        "left out: 2 (identical responses), 1 (blank prompt)"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # not on other processes, nor where there is none
        monkeypatch.setattr(raw, "is_main_process", lambda: False)
        RawDataset.load(name, path=str(path))
        monkeypatch.undo()
        RawDataset.load(name, path=str(write(rows[:1], "one.jsonl")))
    assert caplog.messages == []
    expected = r"nothing of use in 3 rows: 2 \(identical responses\), 1 \(blank prompt\)$"
    with pytest.raises(UserError, match=expected):
        RawDataset.load(name, path=str(write(rows[1:])))


def test_every_data_set_says_what_it_is():
    classes = [cls for cls in RawDataset.registered() if issubclass(cls, PublishedDataset)]
    assert len(classes) == 21
    for cls in classes:
        assert cls.HUB.count("/") == 1
        assert cls.LICENCE in ("MIT", "CC BY 4.0", "CC BY-NC 4.0")
        assert cls.KIND in ("pairs", "prompts", "supervised")
        assert bool(cls.OBJECTIVES) == (cls.KIND == "pairs")


def test_the_data_of_a_training(write):
    rows = [V0, V0 | {"response_0": ""}, V0 | {"safer_response_id": 1}]
    spec = f"PKU-SafeRLHF-v0/train:1:{write(rows, 'pku.jsonl')}"
    pairs = PreferenceDataset([spec], tiny_tokenizer())
    assert pairs.labels.tolist() == [[1, -1], [1, 1]]
    assert pairs.tokenizer.decode(pairs[0]["better_input_ids"]).endswith("USER: q ASSISTANT:b</s>")
    assert len(PromptOnlyDataset([spec], tiny_tokenizer())) == 1
    path = write([HH])
    both = [f"hh-rlhf-{name}-preference/train:1:{path}" for name in ("helpful", "harmless")]
    assert PreferenceDataset(both, tiny_tokenizer()).labels.tolist() == [[1, 0], [0, 1]]
    (text,) = SupervisedDataset([f"hh-rlhf-harmless-dialogue:1:{path}"], tiny_tokenizer())
    assert (
        tiny_tokenizer()
        .decode(text["input_ids"])
        .startswith(
            "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:hello</s>USER: how? ASSISTANT:so:"
        )
    )
