"""What functions may ask for, and what is told when they fail."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.functions import FunctionReward, function_address
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.spec import RewardSpec
from tests.rewards.test_scorers import EOS, padded_rows
from tests.tiny import tiny_tokenizer

EXAMPLES = [{"input": "ab", "answer": 4, "topic": "x"}, {"input": ["a", "b", "c"], "answer": 7}]


def given(prompt_ids, response_ids, turns, answer, suffix="", weight=0.5):
    """A reward that shows what it was given."""
    assert prompt_ids == [[9, 10], [11]]
    assert response_ids == [[12, 13, 2], [14, 15, 16, 17]]  # with the end token
    assert turns == [["ab"], ["a", "b", "c"]]
    assert (suffix, weight) == ("1,2", 3.0)
    return answer


def all_columns(responses, **columns):
    assert columns == {"input": ["ab", ["a", "b", "c"]], "answer": [4, 7]}
    return columns["answer"]


def later_row(responses):
    return [1 / (4 - len(text)) for text in responses]


def of_none(responses):
    raise KeyError


def beginnings(responses, letters: int, least=1, most: int | None = None, whole=False):
    assert least in (0, 1, 0.5) and type(least) is (float if least == 0.5 else int)
    assert type(most) in (int, type(None)) and type(whole) is bool
    return [len(text[:letters]) + whole for text in responses]


def rows_with(examples=EXAMPLES):
    rows = padded_rows(tiny_tokenizer())
    return Responses(rows.input_ids, rows.attention_mask, 2, examples)


def reward(name):
    return FunctionReward(f"{__name__}:{name}", tiny_tokenizer(), (EOS,))


def test_tokens_turns_columns_and_options():
    scores = reward("given?suffix=1,2,weight=3")(rows_with())
    assert scores.tolist() == [4.0, 7.0]
    assert reward("given").columns == ["answer"]
    assert reward("all_columns")(rows_with()).tolist() == [4.0, 7.0]


def test_a_whole_number_stays_one():
    assert reward("beginnings?letters=3,least=0,most=9")(rows_with()).tolist() == [2.0, 3.0]
    assert reward("beginnings?letters=3,least=0.5")(rows_with()).tolist() == [2.0, 3.0]
    assert reward("beginnings?letters=3,whole=false")(rows_with()).tolist() == [2.0, 3.0]
    assert reward("beginnings?letters=3,whole=true")(rows_with()).tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("letters=1.5", "'letters=1.5' is not of the form name=whole number"),
        ("letters=1,least=x", "'least=x' is not of the form name=number"),
        ("letters=1,most=1e3", "'most=1e3' is not of the form name=whole number"),
        ("letters=x", "'letters=x' is not of the form name=whole number"),
        ("letters=1,whole=0.0", "'whole=0.0' is not of the form name=true or name=false"),
    ],
)
def test_an_option_of_another_type(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        reward(f"beginnings?{options}")


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
        FunctionReward("broken:f", tiny_tokenizer(), (EOS,))


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
        FunctionReward("buggy:f", tiny_tokenizer(), (EOS,))(rows_with())
    told, *places = re.split(", at |, called from ", str(caught.value))
    assert re.fullmatch(r"buggy:f raised \w*[eE]rror: missing \), .* in row 0", told)
    frames = [
        f"{tmp_path}/helpers.py:5 in found (return re.compile(text + '(').match(text))",
        f"{tmp_path}/buggy.py:5 in score (return helpers.found(text))",
    ]
    assert places[:2] == frames
    assert places[2].startswith(f"{tmp_path}/buggy.py:9 in ")
    assert caught.value.__cause__.__traceback__ is not None


def leaves(responses):
    sys.exit(0)


def test_a_function_that_ends_the_program_is_an_error():
    with pytest.raises(UserError, match=r"leaves raised SystemExit: 0 in row 0, at .* in leaves"):
        reward("leaves")(rows_with())


def test_text_is_decoded_once_for_all_functions(monkeypatch):
    tokenizer, calls = tiny_tokenizer(), []
    decode = tokenizer.batch_decode
    monkeypatch.setattr(
        tokenizer, "batch_decode", lambda *a, **k: calls.append(1) or decode(*a, **k)
    )
    rules = ["matches?pattern=d", "refuses?pattern=d"]
    paths = [f"safe_rlhf_panacea.reward_functions:{rule}" for rule in rules]
    specs = [RewardSpec(str(i), path) for i, path in enumerate(paths)]
    ensemble = RewardEnsemble(specs, [FunctionReward(path, tokenizer, (EOS,)) for path in paths])
    assert ensemble(rows_with()).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("later_row", "later_row raised ZeroDivisionError: division by zero in row 1"),
        ("of_none", "of_none raised KeyError in row 0"),
    ],
)
def test_an_exception_names_function_and_row(name, message):
    with pytest.raises(UserError, match=message):
        reward(name)(rows_with())


def test_a_column_that_is_not_there():
    with pytest.raises(UserError, match="given: the data of row 1 have no column 'answer'; they"):
        reward("given")(rows_with([EXAMPLES[0], {"input": "c"}]))
    with pytest.raises(UserError, match="column 'input' of the data is not known here"):
        reward("given")(rows_with(None))
    ensemble = RewardEnsemble([RewardSpec("a", f"{__name__}:given")], [reward("given")])
    ensemble.check_columns(EXAMPLES, "data")
    with pytest.raises(
        UserError, match=r"needs answer, which is no column of data \(prompt 1 has: in"
    ):
        ensemble.check_columns([{"input": "c"}], "data")
    for unknown in (None, [None]):
        with pytest.raises(UserError, match="prompt 1 has: none"):
            ensemble.check_columns(unknown, "data")
    with pytest.raises(ValueError, match="1 examples for 2 rows"):
        Responses(torch.zeros(2, 3), torch.ones(2, 3), 1, EXAMPLES[:1])


def test_the_order_of_options_does_not_make_another_function():
    assert function_address("m:f?a=1,b=x,2") == function_address("m:f?b=x,2,a=1")
    assert function_address("m:f?a=1") != function_address("m:f?a=2")
