"""Other people's formats: what is made of their rows, what is left out or refused, and told."""

from __future__ import annotations

from typing import Any

import pytest

from safe_rlhf_panacea.algorithms.dpo import COMMAND, parse_arguments
from safe_rlhf_panacea.algorithms.sft.trainer import ObjectiveTexts
from safe_rlhf_panacea.data import (
    PreferenceDataset,
    PromptOnlyDataset,
    SupervisedDataset,
    from_rows,
)
from safe_rlhf_panacea.data.datasets import read_named_specs
from safe_rlhf_panacea.data.own import FORMATS
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

ROLES = {"k": "system", "q": "user", "r": "assistant", "s": "user", "a": "assistant"}
ROLES |= {"b": "assistant"}


def told(words, **more):
    """Messages, one for each letter, whose role is that of the letter."""
    return [{"role": ROLES[word], "content": word, **more} for word in words]


def told_from(words):
    """The same in ShareGPT's form."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[ROLES[word]], "value": word} for word in words]


def pair(words, better=0, answers="ab", **more):
    turns = words if len(words) == 1 else list(words)
    both = {"answer": answers[0], "other_answer": answers[1]}
    return {"input": turns, **both, "labels": {"chosen": better}, **more}


def text(words, answer, **more):
    return {"input": words if len(words) == 1 else list(words), "answer": answer, **more}


def nobody(role, content="a", **more):
    return [{"role": role, "content": content, **more}]


CHOSEN = {"prompt": "q", "chosen": "a", "rejected": "b"}
DIALOGUE = "\n\nHuman: q\n\nAssistant: r\n\nHuman: s\n\nAssistant:"
RANKED = [{"answer": "c", "rank": 3.0}, {"answer": "a", "rank": 1.0}, {"answer": "b", "rank": 2.0}]
COMPARED = "context/response1/response2/overall_preference"
PAIRS: dict[str, Any] = {"response1": "a", "response2": "b", "context": told("qrs")}
OWN = {"response_0": "a", "response_1": "b", "better_x": 1}
# name of the format, a row, and the samples that are made of it
READ: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("prompt/chosen/rejected", CHOSEN, [pair("q")]),
    (
        "prompt/chosen/rejected",
        {"prompt": told("q"), "chosen": told("a"), "rejected": told("b")},
        [pair("q")],
    ),
    (
        "prompt/chosen/rejected",
        {"prompt": told("kqrs"), "chosen": told("a"), "rejected": "b"},
        [pair("qrs", system="k")],
    ),
    (  # UltraFeedback binarized
        "prompt/chosen/rejected",
        {"prompt": "q", "chosen": told("qa"), "rejected": told("qb"), "messages": told("qa")}
        | {"score_chosen": 8.0, "score_rejected": 3.0},
        [pair("q")],
    ),
    (
        "prompt/chosen/rejected",
        {"prompt": DIALOGUE, "chosen": " a", "rejected": " b", "system": "k"},
        [pair("qrs", system="k")],
    ),
    ("chosen/rejected", {"chosen": told("qrsa"), "rejected": told("qrsb")}, [pair("qrs")]),
    ("chosen/rejected", {"chosen": f"{DIALOGUE} a", "rejected": f"{DIALOGUE} b"}, [pair("qrs")]),
    (  # a beginning ends with a word: "big" and "black" share more than the prompt
        "chosen/rejected",
        {"chosen": "the sky is big", "rejected": "the sky is black"},
        [pair("q", answers=("big", "black")) | {"input": "the sky is"}],
    ),
    (
        "conversations/chosen/rejected",
        {"conversations": told_from("q"), "chosen": told_from("a")[0], "system": "k"}
        | {"rejected": told_from("b")[0]},
        [pair("q", system="k")],
    ),
    (COMPARED, PAIRS | {"overall_preference": 2}, [pair("qrs", better=1)]),
    (
        "prompt/answers by rank",
        {"prompt": DIALOGUE, "answers": RANKED, "turns": 2},
        [pair("qrs", 1, "ca"), pair("qrs", 1, "cb"), pair("qrs")],
    ),
    (
        "messages",
        {"messages": told("kqrsa"), "tools": None},
        [text("q", "r", system="k"), text("qrs", "a", system="k")],
    ),
    (
        "messages",
        {"messages": nobody("user", [{"type": "text", "text": "q"}]) + told("r", tool_calls=[])},
        [text("q", "r")],
    ),
    ("conversations", {"conversations": told_from("kqrs")}, [text("q", "r", system="k")]),
    (
        "prompt/completion",
        {"prompt": told("kq"), "completion": told("a")},
        [text("q", "a", system="k")],
    ),
    ("prompt/completion", {"prompt": "q", "completion": "a"}, [text("q", "a")]),
    (
        "instruction/output",
        {"instruction": "q", "input": "s", "output": "a"},
        [{"input": "q s", "answer": "a"}],
    ),
    (
        "prompt",
        {"prompt": told("kqrs"), "answers": ["x"]},
        [{"input": list("qrs"), "system": "k", "answers": ["x"]}],
    ),
    (
        "prompt/response_0/response_1",
        OWN | {"prompt": list("qrs")},
        [pair("qrs") | {"labels": {"x": 1}}],
    ),
    ("prompt/response", {"prompt": told("q"), "response": "a"}, [text("q", "a")]),
]


@pytest.mark.parametrize(("name", "row", "samples"), READ)
def test_what_is_made_of_a_row(write, name, row, samples):
    raw = RawDataset.load("auto", path=str(write([row])))
    assert list(raw) == samples
    kinds = {form.name: form.kind for form in FORMATS}
    assert (raw.seen, raw.KIND) == (name, kinds[name])
    prompts = RawDataset.load("prompts", path=str(write([row])))
    expected = [sample["input"] for sample in samples]
    if isinstance(row.get("prompt"), list):  # messages, as which reward functions get them
        expected = [[one] if isinstance(one, str) else one for one in expected]
    found = [sample["input"] for sample in prompts]
    assert found in (expected, expected[-1:])  # of a conversation, the last


NO_TURNS = "speakers that do not take turns"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (CHOSEN | {"rejected": "a"}, "identical responses"),
        (CHOSEN | {"chosen": None}, "blank response"),
        (CHOSEN | {"prompt": " "}, "blank turn"),
        (CHOSEN | {"score_chosen": 3, "score_rejected": 3.0}, "tied or unlabelled on every objec"),
        ({"chosen": "one", "rejected": "other"}, "responses without a common beginning"),
        ({"chosen": DIALOGUE, "rejected": f"{DIALOGUE} b"}, "blank response"),
        (CHOSEN | {"chosen": told("q"), "rejected": told("q")}, "no answer at the end"),
        (
            {"chosen": told("qa"), "rejected": told("sb")},
            "conversations that part before the last answer",
        ),
        (PAIRS | {"overall_preference": 0}, "tied or unlabelled on every objective"),
        ({"messages": told("qsa")}, NO_TURNS),
        ({"messages": told("qka")}, NO_TURNS),
        ({"messages": told("a")}, NO_TURNS),
        ({"messages": []}, NO_TURNS),
        ({"messages": "q"}, "no answer"),
        ({"messages": told("q")}, "no answer"),
        ({"messages": told("q") + nobody("assistant", None)}, "blank response"),
        ({"prompt": "q", "answers": RANKED[:1]}, "fewer than two answers"),
    ],
)
def test_rows_of_no_use_are_counted(row, reason):
    with pytest.raises(UserError, match=rf"^rows: nothing of use in 1 rows: 1 \({reason}"):
        from_rows([row])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": told("q") + nobody("assistant", None, tool_calls=[1])}, "message 2 is about"),
        ({"messages": told("q") + nobody("tool")}, "messages: message 2 is about a tool"),
        ({"conversations": [{"from": "observation", "value": "a"}]}, "about a tool"),
        ({"messages": told("qa"), "tools": ["f"]}, "the column tools is not empty"),
        (CHOSEN | {"images": ["f"]}, "the column images is not empty"),
        ({"messages": nobody("bot")}, "message 1 has the role 'bot'; roles are"),
        ({"messages": nobody("user", [{"type": "image_url"}])}, "1 has a part that is no text"),
        ({"messages": nobody("user", 7)}, "message 1: content is int; it is a string"),
        ({"messages": ["q", told("s")[0]]}, "message 1 is str; it is an object with role"),
        ({"messages": {"role": "user"}}, "messages is dict; it is text or a list of messages"),
        ({"prompt": "q", "completion": "a", "label": True}, "completion/label has one rated"),
        ({"text": "q"}, "the columns text are of no format that is read: prompt/response_0"),
        ({"question": "q", "chosen": "a b", "rejected": "a c"}, "'prompt'; rename 'question'"),
        (CHOSEN | {"system": 3}, "system is int; it is a string"),
    ],
)
def test_what_is_refused(row, message):
    with pytest.raises(UserError, match=f"^rows, row 1: .*{message}"):
        from_rows([row])


def test_a_data_set_for_each_objective(write, capsys):
    helpful, own = write([CHOSEN], "helpful.jsonl"), {"response_0": "c", "response_1": "d"}
    labels = [{"better_harmless": 1, "better_helpful": 0}, {"better_harmless": None}]
    harmless = write([{"prompt": "r", **own, **label} for label in labels], "own.jsonl")
    specs = [f"helpful={helpful}", f"harmless={helpful}", f"harmless=pairs:1:{harmless}"]
    pairs = PreferenceDataset(specs, tiny_tokenizer(), ("helpful", "harmless"))
    assert pairs.labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    lines = [
        f"{helpful}: prompt/chosen/rejected, 1 pairs for {x}\n" for x in ("helpful", "harmless")
    ]
    assert capsys.readouterr().err == "".join(lines)
    texts = [tiny_tokenizer().decode(row["better_input_ids"]) for row in pairs]
    assert [text.split("ASSISTANT:")[1] for text in texts] == ["a</s>", "a</s>", "d</s>"]
    missing = r"own\.jsonl: no pair has a label for 'kind'; .*: harmless"
    with pytest.raises(UserError, match=missing):
        PreferenceDataset([f"kind={harmless}"], tiny_tokenizer(), ("kind", "harmless"))


def test_pairs_that_do_not_say_for_whom(write):
    path = str(write([CHOSEN]))
    lone = PreferenceDataset([path], tiny_tokenizer(), ("kind",))  # as a reward model has
    assert lone.labels.tolist() == [[1]]
    with pytest.raises(UserError, match="labels there: chosen; say for whom, as in helpful=PATH"):
        PreferenceDataset([path], tiny_tokenizer())


def test_the_objectives_of_dpo_are_those_of_its_data():
    given = "--model_name_or_path m --output_dir o --train_datasets b=x.jsonl a=y.jsonl b=z.jsonl"
    assert parse_arguments(given.split()).objectives == ("b", "a")
    assert COMMAND.parser().parse_args([*given.split(), "--objectives", "a"]).objectives == ["a"]


def test_supervised_text_of_several_objectives(write):
    chosen, talk = write([CHOSEN], "chosen.jsonl"), write([{"messages": told("qrsa")}])
    specs = [f"x={chosen}", f"y={talk}", from_rows([CHOSEN])]
    named = read_named_specs("--train_datasets", specs[:2], ("x", "y"))
    data = ObjectiveTexts(named, tiny_tokenizer(), ("x", "y"))
    assert data.labelled.tolist() == [[True, False], [False, True], [False, True]]
    with pytest.raises(UserError, match="name its objective"):
        read_named_specs("--train_datasets", specs[2:])
    with pytest.raises(UserError, match=r"rows, row 1: a pair; .*chosen:1:PATH"):
        SupervisedDataset(specs[2], tiny_tokenizer())
    (item,) = SupervisedDataset(f"chosen:1:{chosen}", tiny_tokenizer())
    assert tiny_tokenizer().decode(item["input_ids"]).endswith("USER: q ASSISTANT:a</s>")


def test_rows_from_python():
    datasets = pytest.importorskip("datasets")
    rows = [CHOSEN, CHOSEN | {"prompt": "r"}]
    expected = [pair(prompt) | {"labels": {"x": 0}} for prompt in "qr"]
    table = datasets.Dataset.from_list(rows)
    for given in (rows, iter(rows), table, table.to_iterable_dataset()):
        assert list(from_rows(given, "pairs", "x")) == expected
    prompts = PromptOnlyDataset([from_rows(rows), from_rows([{"prompt": "s"}])], tiny_tokenizer())
    assert [example["input"] for example in prompts.examples] == ["q", "r", "s"]
    for message, *bad in [
        ("rows is DatasetDict; it is an", datasets.DatasetDict(train=table)),
        ("rows, row 1: str; a row is a dictionary", ["q"]),
        ("rows: no rows", []),
        ("unknown kind of data 'pears'; .*: auto, chosen, pairs", rows, "pears"),
        ("rows: no pairs, so 'x' has no label", [{"prompt": "q"}], "prompts", "x"),
        ("rows, row 1: no field 'response_0'", [{"prompt": "q"}], "pairs"),
    ]:
        with pytest.raises(UserError, match=message):
            from_rows(*bad)
