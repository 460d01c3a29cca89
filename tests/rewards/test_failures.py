"""Reward functions that fail: where the user's code did; and functions that are ``async``."""

from __future__ import annotations

import asyncio
import re
import sys

import numpy as np
import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.functions import FunctionReward
from safe_rlhf_panacea.rewards.spec import RewardSpec
from tests.rewards.rows import EOS, padded_rows
from tests.tiny import tiny_tokenizer


def reward(function):
    return FunctionReward(function, tiny_tokenizer(), (EOS,))


def scores(function):
    return reward(function)(padded_rows(tiny_tokenizer())).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", r"broken cannot be imported: SyntaxError: .*\(broken\.py, line 1\)$"),
        (
            "import re\n1 / 0",
            r"ZeroDivisionError: division by zero, at \S+broken\.py:2 in <module> \(1 / 0\)$",
        ),
        (
            "import re\n\nre.compile('(')",
            r"rror: missing \), .* position 0, at \S+broken\.py:3 in <module> \(re\.com.*\)$",
        ),
        (
            "import sys\nsys.exit(0)",
            r"imported: SystemExit: 0, at \S+broken\.py:2 in <module> \(sys\.exit\(0\)\)$",
        ),
        ("import not_there", r"No module named 'not_there', at \S+broken\.py:1 in <module> .*$"),
    ],
)
def test_a_module_that_fails_while_it_is_imported(text, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(UserError, match=message):
        reward("broken:f")


def test_a_bug_is_shown_with_its_place_and_who_called_it(tmp_path, monkeypatch):
    """In the user's files, without the frames of libraries."""
    (tmp_path / "helpers.py").write_text(
        "import re\n\n\ndef found(text):\n    return re.compile(text + '(').match(text)\n",
        encoding="utf-8",
    )
    (tmp_path / "buggy.py").write_text(
        "import helpers\n\n\ndef score(text):\n    return helpers.found(text)\n\n\n"
        "def f(responses):\n    return [score(text) for text in responses]\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        scores("buggy:f")
    told, *places = re.split(", at |, called from ", str(caught.value))
    assert re.fullmatch(r"buggy:f raised \w*[eE]rror: missing \), .* in row 0", told)
    assert places[:2] == [
        f"{tmp_path}/helpers.py:5 in found (return re.compile(text + '(').match(text))",
        f"{tmp_path}/buggy.py:5 in score (return helpers.found(text))",
    ]
    assert places[2].startswith(f"{tmp_path}/buggy.py:9 in ")
    assert caught.value.__cause__.__traceback__ is not None


def by_place(responses, /):
    return [0.0] * len(responses)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{__name__}:by_place", "responses must be an argument that can be given by name"),
        ("builtins:dict", "does not say which arguments it takes"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_once(path, message):
    with pytest.raises(UserError, match=message):
        reward(path)


def leaves(responses):
    sys.exit(0)


def later_row(responses):
    return [1 / (4 - len(text)) for text in responses]


def of_none(responses):
    raise KeyError


async def later(completions):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


async def async_row(completions):
    await asyncio.sleep(0)
    return [1 / (4 - len(text)) for text in completions]


async def async_leaves(completions):
    sys.exit(0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (leaves, r"leaves raised SystemExit: 0 in row 0, at .* in leaves"),
        (later_row, "later_row raised ZeroDivisionError: division by zero in row 1"),
        (of_none, "of_none raised KeyError in row 0"),
        (async_row, r"ZeroDivisionError: .* in row 1, at .*test_failures.py:\d+ in async_row"),
        (async_leaves, "raised SystemExit: 0 in row 0"),
    ],
)
def test_an_exception_names_function_row_and_place(function, message):
    with pytest.raises(UserError, match=message):
        scores(function)


def test_async_functions():
    assert scores(later) == [2.0, 4.0]  # the loop is still there, after what failed in it

    async def in_a_notebook():  # whose thread runs an event loop
        return scores(f"{__name__}:later")

    assert asyncio.run(in_a_notebook()) == [2.0, 4.0]


def test_async_functions_run_together():
    """The first one waits for the second."""
    came = []

    async def first(responses):
        for _ in range(500):
            await asyncio.sleep(0.01)
            if came:
                return [1.0, 2.0]
        raise TimeoutError

    async def second(responses):
        came.append(True)
        return [3.0, None]

    specs = [RewardSpec("a", first), RewardSpec("b", second)]
    found = RewardEnsemble(specs, [reward(first), reward(second)])(padded_rows(tiny_tokenizer()))
    np.testing.assert_array_equal(found, [[1.0, 3.0], [2.0, np.nan]])
