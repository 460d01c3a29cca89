"""Data in the formats that people have: what is made of a row, and what is said of a file."""

from __future__ import annotations

from typing import Any

import pytest

from safe_rlhf_panacea.algorithms.dpo import COMMAND, parse_arguments
from safe_rlhf_panacea.algorithms.sft.data import ObjectiveTexts, read_named_specs
from safe_rlhf_panacea.data import (
    PreferenceDataset,
    PromptOnlyDataset,
    SupervisedDataset,
    from_rows,
)
from safe_rlhf_panacea.data.__main__ import main
from safe_rlhf_panacea.data.own import FORMATS
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

Message = dict[str, Any]


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def pair(turns, better=0, **more):
    both = {"answer": "a", "other_answer": "b"}
    return {"input": turns, **both, "labels": {"chosen": better}, **more}


TURNS = [user("q"), assistant("r"), user("s")]
THREE = ["q", "r", "s"]
DIALOGUE = "\n\nHuman: q\n\nAssistant: r\n\nHuman: s\n\nAssistant:"
RANKED = [{"answer": "c", "rank": 3.0}, {"answer": "a", "rank": 1.0}, {"answer": "b", "rank": 2.0}]
# name of the format, a row, and the samples that are made of it
READ: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("prompt/chosen/rejected", {"prompt": "q", "chosen": "a", "rejected": "b"}, [pair("q")]),
    (
        "prompt/chosen/rejected",
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        [pair("q")],
    ),
    (
        "prompt/chosen/rejected",
        {"prompt": [system("k"), *TURNS], "chosen": [assistant("a")], "rejected": "b"},
        [pair(THREE, system="k")],
    ),
    (  # UltraFeedback binarized
        "prompt/chosen/rejected",
        {
            "prompt": "q",
            "chosen": [user("q"), assistant("a")],
            "rejected": [user("q"), assistant("b")],
            "messages": [user("q"), assistant("a")],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        [pair("q")],
    ),
    (
        "prompt/chosen/rejected",
        {"prompt": DIALOGUE, "chosen": " a", "rejected": " b", "system": "k"},
        [pair(THREE, system="k")],
    ),
    (
        "chosen/rejected",
        {"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]},
        [pair(THREE)],
    ),
    ("chosen/rejected", {"chosen": f"{DIALOGUE} a", "rejected": f"{DIALOGUE} b"}, [pair(THREE)]),
    (  # a beginning ends with a word: "big" and "black" share more than the prompt
        "chosen/rejected",
        {"chosen": "the sky is big", "rejected": "the sky is black"},
        [pair("the sky is") | {"answer": "big", "other_answer": "black"}],
    ),
    (
        "conversations/chosen/rejected",
        {"conversations": [human("q")], "chosen": gpt("a"), "rejected": gpt("b"), "system": "k"},
        [pair("q", system="k")],
    ),
    (
        "context/response1/response2/overall_preference",
        {"context": TURNS, "response1": "a", "response2": "b", "overall_preference": 2},
        [pair(THREE, better=1)],
    ),
    (
        "prompt/answers by rank",
        {"prompt": DIALOGUE, "answers": RANKED, "turns": 2},
        [
            pair(THREE, better=1) | {"answer": "c", "other_answer": "a"},
            pair(THREE, better=1) | {"answer": "c", "other_answer": "b"},
            pair(THREE),
        ],
    ),
    (
        "messages",
        {"messages": [system("k"), *TURNS, assistant("a")], "tools": None},
        [
            {"input": "q", "system": "k", "answer": "r"},
            {"input": THREE, "system": "k", "answer": "a"},
        ],
    ),
    (
        "messages",
        {"messages": [user([{"type": "text", "text": "q"}]), assistant("r", tool_calls=[])]},
        [{"input": "q", "answer": "r"}],
    ),
    (
        "conversations",
        {"conversations": [{"from": "system", "value": "k"}, human("q"), gpt("r"), human("s")]},
        [{"input": "q", "system": "k", "answer": "r"}],
    ),
    (
        "prompt/completion",
        {"prompt": [system("k"), user("q")], "completion": [assistant("a")]},
        [{"input": "q", "system": "k", "answer": "a"}],
    ),
    ("prompt/completion", {"prompt": "q", "completion": "a"}, [{"input": "q", "answer": "a"}]),
    (
        "instruction/output",
        {"instruction": "q", "input": "s", "output": "a"},
        [{"input": "q s", "answer": "a"}],
    ),
    (
        "prompt",
        {"prompt": [system("k"), *TURNS], "answers": ["x"]},
        [{"input": THREE, "system": "k", "answers": ["x"]}],
    ),
    (
        "prompt/response_0/response_1",
        {"prompt": THREE, "response_0": "a", "response_1": "b", "better_x": 1},
        [pair(THREE) | {"labels": {"x": 1}}],
    ),
    ("prompt/response", {"prompt": [user("q")], "response": "a"}, [{"input": "q", "answer": "a"}]),
]
CHOSEN = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(("name", "row", "samples"), READ)
def test_what_is_made_of_a_row(write, name, row, samples):
    raw = RawDataset.load("auto", path=str(write([row])))
    assert list(raw) == samples
    kinds = {form.name: form.kind for form in FORMATS}
    assert (raw.seen, raw.KIND) == (name, kinds[name])  # type: ignore[attr-defined]
    prompts = RawDataset.load("prompts", path=str(write([row])))
    expected = [sample["input"] for sample in samples]
    if isinstance(row.get("prompt"), list):  # messages, as which reward functions get them
        expected = [[one] if isinstance(one, str) else one for one in expected]
    found = [sample["input"] for sample in prompts]
    assert found in (expected, expected[-1:])  # of a conversation, the last


def test_every_format_is_read_in_a_test():
    assert {name for name, *_ in READ} == {form.name for form in FORMATS}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (CHOSEN | {"rejected": "a"}, "identical responses"),
        (CHOSEN | {"chosen": None}, "blank response"),
        (CHOSEN | {"prompt": " "}, "blank turn"),
        (CHOSEN | {"score_chosen": 3, "score_rejected": 3.0}, "tied or unlabelled on every objec"),
        ({"chosen": "one", "rejected": "other"}, "responses without a common beginning"),
        ({"chosen": DIALOGUE, "rejected": f"{DIALOGUE} b"}, "blank response"),
        (CHOSEN | {"chosen": [user("q")], "rejected": [user("q")]}, "no answer at the end"),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("s"), assistant("b")]},
            "conversations that part before the last answer",
        ),
        (
            {"context": TURNS, "response1": "a", "response2": "b", "overall_preference": 0},
            "tied or unlabelled on every objective",
        ),
        ({"messages": [user("q"), user("s"), assistant("a")]}, "speakers that do not take turns"),
        ({"messages": [user("q"), system("k"), assistant("a")]}, "speakers that do not take turns"),
        ({"messages": [assistant("a")]}, "speakers that do not take turns"),
        ({"prompt": "q", "answers": RANKED[:1]}, "fewer than two answers"),
        ({"messages": []}, "speakers that do not take turns"),
        ({"messages": [user("q")]}, "no answer"),
        ({"messages": [user("q"), assistant(None)]}, "blank response"),
    ],
)
def test_rows_of_no_use_are_counted(row, reason):
    with pytest.raises(UserError, match=rf"^rows: nothing of use in 1 rows: 1 \({reason}"):
        from_rows([row])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user("q"), assistant(None, tool_calls=[1])]}, "messages: message 2 is abou"),
        ({"messages": [user("q"), {"role": "tool", "content": "a"}]}, "message 2 is about a tool"),
        ({"conversations": [human("q"), {"from": "observation", "value": "a"}]}, "about a tool"),
        (
            {"messages": [user("q"), assistant("a")], "tools": ["f"]},
            "the column tools is not empty",
        ),
        (CHOSEN | {"tools": ["f"]}, "the column tools is not empty"),
        (CHOSEN | {"images": ["f"]}, "the column images is not empty"),
        (
            {"messages": [{"role": "bot", "content": "a"}]},
            "message 1 has the role 'bot'; roles are",
        ),
        ({"messages": [user([{"type": "image_url"}])]}, "message 1 has a part that is no text"),
        ({"messages": [user(7)]}, "message 1: content is int; it is a string"),
        ({"messages": "q"}, None),
        ({"messages": ["q", user("s")]}, "messages: message 1 is str; it is an object with role"),
        ({"messages": {"role": "user"}}, "messages is dict; it is text or a list of messages"),
        (
            {"prompt": "q", "completion": "a", "label": True},
            "prompt/completion/label has one rated",
        ),
        ({"text": "q"}, "the columns text are of no format that is read: prompt/response_0"),
        (
            {"question": "q", "chosen": "a b", "rejected": "a c"},
            "no field 'prompt'; rename 'question'",
        ),
        (CHOSEN | {"system": 3}, "system is int; it is a string"),
    ],
)
def test_what_is_refused(row, message):
    told = f"^rows, row 1: .*{message}" if message else "nothing of use"
    with pytest.raises(UserError, match=told):
        from_rows([row])


def test_a_data_set_for_each_objective(write, capsys):
    helpful, own = write([CHOSEN], "helpful.jsonl"), {"response_0": "c", "response_1": "d"}
    labels = [{"better_harmless": 1, "better_helpful": 0}, {"better_harmless": None}]
    harmless = write([{"prompt": "r", **own, **label} for label in labels], "own.jsonl")
    specs = [f"helpful={helpful}", f"harmless={helpful}", f"harmless=pairs:1:{harmless}"]
    pairs = PreferenceDataset(specs, tiny_tokenizer(), ("helpful", "harmless"))
    assert pairs.labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert pairs.skipped == 1
    told = [
        f"{helpful}: prompt/chosen/rejected, 1 pairs for {x}\n" for x in ("helpful", "harmless")
    ]
    assert capsys.readouterr().err == "".join(told)
    texts = [tiny_tokenizer().decode(row["better_input_ids"]) for row in pairs]
    assert [text.split("ASSISTANT:")[1] for text in texts] == ["a</s>", "a</s>", "d</s>"]
    with pytest.raises(
        UserError, match=r"own\.jsonl: no pair has a label for 'kind'; .*: harmless"
    ):
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
    chosen, talk = write([CHOSEN], "chosen.jsonl"), {"messages": [*TURNS, assistant("a")]}
    specs = [f"x={chosen}", f"y={write([talk])}", from_rows([CHOSEN])]
    named = read_named_specs("--train_datasets", specs[:2], ("x", "y"))
    data = ObjectiveTexts(named, tiny_tokenizer(), ("x", "y"))
    assert data.labelled.tolist() == [[True, False], [False, True], [False, True]]
    with pytest.raises(UserError, match="name its objective"):
        read_named_specs("--train_datasets", specs[2:])
    with pytest.raises(UserError, match=r"rows, row 1: a pair; .*chosen:1:PATH"):
        SupervisedDataset(specs[2], tiny_tokenizer())
    (text,) = SupervisedDataset(f"chosen:1:{chosen}", tiny_tokenizer())
    assert tiny_tokenizer().decode(text["input_ids"]).endswith("USER: q ASSISTANT:a</s>")


def test_rows_from_python():
    datasets = pytest.importorskip("datasets")
    rows = [CHOSEN, CHOSEN | {"prompt": "r"}]
    expected = [pair("q") | {"labels": {"x": 0}}, pair("r") | {"labels": {"x": 0}}]
    table = datasets.Dataset.from_list(rows)
    for given in (rows, iter(rows), table, table.to_iterable_dataset()):
        assert list(from_rows(given, "pairs", "x")) == expected
    prompts = PromptOnlyDataset([from_rows(rows), from_rows([{"prompt": "s"}])], tiny_tokenizer())
    assert [example["input"] for example in prompts.examples] == ["q", "r", "s"]
    for bad, message in [
        (lambda: from_rows(datasets.DatasetDict(train=table)), "rows is DatasetDict; it is an"),
        (lambda: from_rows(["q"]), "rows, row 1: str; a row is a dictionary"),
        (lambda: from_rows([]), "rows: no rows"),
        (lambda: from_rows(rows, "pears"), "unknown kind of data 'pears'; .*: auto, chosen, pairs"),
        (
            lambda: from_rows([{"prompt": "q"}], objective="x"),
            "rows: no pairs, so 'x' has no label",
        ),
        (lambda: from_rows([{"prompt": "q"}], "pairs"), "rows, row 1: no field 'response_0'"),
    ]:
        with pytest.raises(UserError, match=message):
            bad()


@pytest.mark.parametrize("place", ["rows.jsonl", "rows.json", "rows.parquet", "saved", "me/rows"])
def test_a_plain_place(place, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    talks = [[user(text), assistant("a", tool_calls=None)] for text in ("q", "r")]
    table = datasets.Dataset.from_list([{"messages": talk} for talk in talks])
    if place.endswith("parquet"):
        table.to_parquet(place)
    elif place.startswith("rows"):
        table.to_json(place)
    elif place == "saved":
        table.save_to_disk(place)
    else:
        monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(test=table))
    for spec in (place, f"{place}:2", f"{place}#test" if place == "me/rows" else place):
        data = SupervisedDataset(spec, tiny_tokenizer())
        assert len(data) == (4 if spec.endswith("2") else 2)


def test_a_file_is_described(write, capsys):
    path = write([CHOSEN, CHOSEN | {"rejected": "a"}])
    for spec, name in [(str(path), "chosen"), (f"helpful={path}", "helpful")]:
        main([spec])
        assert capsys.readouterr().out.startswith(
            f"{spec}:\n  prompt/chosen/rejected: pairs\n"
            "  2 rows, 1 samples; the proportion takes 1\n"
            "left out:\n  1 (identical responses)\n"
            f"labels:\n  {name}: 1 labels, of which 1 prefer the first response and 0 the second"
        )
