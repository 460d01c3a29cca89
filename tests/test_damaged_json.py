"""Every reader of a JSON file: cut short, of other types, with keys gone: one line or as before."""

from __future__ import annotations

import copy
import json

import pytest

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError
from safe_rlhf_panacea.adapter.io import ADAPTER_TYPE, read_config
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import read_evaluations, read_responses
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.fronts.runs import parse_run, read_run
from safe_rlhf_panacea.io import read_json, read_json_lines
from safe_rlhf_panacea.models.files import weight_files
from safe_rlhf_panacea.records import read_examples
from safe_rlhf_panacea.rewards.spec import RewardSpec, apply_calibration
from safe_rlhf_panacea.show.tables import indicators_table, points_table
from tests.eval.evaluations import TWO, evaluation

LINE = evaluation(4, 1.0).to_json()
RESULT = evaluation(4, 1.0).result.to_json()
RESPONSE = {"prompt": "a", "response": "b", "preference": [0.5, 0.5], "rewards": [1.0, 2.0]}
CONFIG = {
    "adapter_type": ADAPTER_TYPE,
    "format": 1,
    **AdapterConfig(objectives=("helpful", "harmless"), base_model="m").to_dict(),
}
INDEX = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
CALIBRATION = {name: {"mean": 1.0, "std": 2.0, "responses": 9} for name in TWO}
# What a value is exchanged for. A list for [] and a number for a text are in it.
OTHERS = (None, True, "x", -1, 10**40, [], [[1]], {})


def calibrated(folder):
    specs = apply_calibration([RewardSpec(name, "m") for name in TWO], folder / "c.json")
    assert all(0 < spec.scale < float("inf") for spec in specs)


def evaluations(folder):
    for one in read_evaluations(folder):
        assert one.step >= -1
        assert one.front.values.shape == (3, 2)


def result(folder):
    found = FrontResult.load(folder)
    assert len(found.points) >= 1
    assert points_table([found]).rows and indicators_table([found]).rows


def runs(choice):
    return lambda folder: read_run(parse_run(f"{folder}{choice}"))


READERS = {
    "adapter_config.json": (CONFIG, read_config),
    "front.json": (RESULT, result),
    "results.json": (RESULT, runs("")),
    "quickstart/results.json": ({"experiments": {"dpo": {"panacea": RESULT}}}, runs(":dpo")),
    "responses.json": ([RESPONSE, RESPONSE], lambda folder: read_responses(folder, TWO)),
    "evaluations.jsonl": (LINE, evaluations),
    "c.json": (CALIBRATION, calibrated),
    "model.safetensors.index.json": (INDEX, weight_files),
    "examples.json": ({"prompts": ["a"], "note": "b"}, read_examples),
}


def places(value, path=()):
    """The paths of all values within a value; of a long list, the first two."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:2] if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


def damaged(content):
    """Texts: one value gone or exchanged, then the text cut short or with something strange."""
    for path in places(content):
        for other in (*OTHERS, KeyError):
            if not path:
                yield json.dumps(None if other is KeyError else other)
                continue
            whole = copy.deepcopy(content)
            place = whole
            for key in path[:-1]:
                place = place[key]
            if other is KeyError:
                del place[path[-1]]
            else:
                place[path[-1]] = other
            yield json.dumps(whole)
    text = json.dumps(content)
    yield from (text[:end] for end in range(0, len(text), max(1, len(text) // 40)))
    yield from ("[" * 100_000, "NaN", '{"a": Infinity}', "1e999", "9" * 5000, '"\\ud800"', "\x00")


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_or_read(name, tmp_path):
    content, read = READERS[name]
    name = name.rpartition("/")[2]
    file = tmp_path / name
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    for shard in ("one", "two"):
        (tmp_path / f"{shard}.safetensors").touch()
    read(tmp_path)
    refused = tried = 0
    for text in damaged(content):
        file.write_text(text + "\n", encoding="utf-8")
        tried += 1
        try:
            read(tmp_path)
        except (UserError, AdapterError) as error:
            refused += 1
            assert str(tmp_path) in str(error), text
            assert "\n" not in str(error)
    assert refused > tried / 2
    file.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises((UserError, AdapterError), match=name):
        read(tmp_path)
    file.unlink()
    file.mkdir()
    if name != "results.json" and name != "evaluations.jsonl":  # there may be none
        with pytest.raises((UserError, AdapterError)):
            read(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n"a": 1,\n}', ":3: not valid JSON"),
        ("[NaN]", "NaN is not finite"),
        ("[-Infinity]", "-Infinity is not finite"),
        ("[1e400]", "1e400 is not finite"),
        ("9" * 400, "a whole number of 400 digits"),
        ("[" * 100_000, "nested too deeply"),
        ('"\\udc00"', "half of a surrogate pair"),
        ('[{"a": {"b": 1, "b": 1}}]', "the key 'b' stands twice in one object"),
    ],
)
def test_what_is_no_json_here(text, words, tmp_path):
    for read, end in ((read_json, ""), (read_json_lines, "\n")):
        (tmp_path / "f").write_text(text + end, encoding="utf-8")
        with pytest.raises(UserError, match=r"f:.*not valid JSON") as caught:
            read(tmp_path / "f")
        if read is read_json:
            assert words in str(caught.value)
    (tmp_path / "f").write_text('"\\ud83d\\ude00"', encoding="utf-8")
    assert read_json(tmp_path / "f") == "😀"
