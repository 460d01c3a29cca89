"""What reward functions may ask for and return, and what is told when they fail."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.functions import FunctionReward, is_function
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses, RewardState
from safe_rlhf_panacea.rewards.spec import RewardSpec, reward_specs
from safe_rlhf_panacea.runs.run_record import recordable
from tests.rewards.rows import EOS, padded_rows
from tests.tiny import tiny_tokenizer

EXAMPLES = [{"input": "ab", "answer": 4, "topic": "x"}, {"input": ["a", "b", "c"], "answer": 7}]
TEXTS = [{"input": "ab", "answer": 4}, {"input": "c", "answer": 7}]
MESSAGES = [{"input": ["a", "b", "c"], "system": "s", "answer": 4}, {"input": ["c"], "answer": 7}]
CONCISE = "safe_rlhf_panacea.reward_functions:concise"
nan = float("nan")


def rows_with(examples):
    rows = padded_rows(tiny_tokenizer())
    return Responses(rows.input_ids, rows.attention_mask, 2, examples)


def reward(function, state=None):
    """Of a function, or of one of this module with options."""
    is_own = isinstance(function, str) and ":" not in function.partition("?")[0]
    path = f"{__name__}:{function}" if is_own else function
    return FunctionReward(path, tiny_tokenizer(), (EOS,), state)


def scores(function, examples=TEXTS, state=None):
    return reward(function, state)(rows_with(examples)).tolist()


def test_of_an_empty_prompt_texts_and_tokens_are_not_taken_for_those_of_the_response():
    rows = Responses(torch.tensor([[4, 5]]), torch.ones(1, 2).bool(), 0)
    tokenizer = tiny_tokenizer()
    texts = tokenizer.batch_decode(torch.tensor([[4, 5]]))
    assert (rows.prompts(tokenizer), rows.responses(tokenizer)) == ([""], texts)
    assert (rows.prompt_ids(), rows.response_ids()) == ([[]], [[4, 5]])


def given(prompts, responses, response_lengths, prompt_ids, response_ids, turns, answer, weight=1):
    """A reward that looks at what it was given."""
    assert (prompts, responses) == (["ab", "c"], ["de", "fghi"])
    assert response_lengths.tolist() == [2, 4]  # eos and pads not counted
    assert prompt_ids == [[9, 10], [11]]
    assert response_ids == [[12, 13, 2], [14, 15, 16, 17]]  # with the end token
    assert turns == [["ab"], ["a", "b", "c"]]
    return [weight * value for value in answer]


def test_tokens_turns_columns_and_options():
    assert scores("given?weight=10", EXAMPLES) == [40.0, 70.0]
    assert reward("given").columns == ["answer"]

    def all_columns(responses, **columns):
        assert columns == {"input": ["ab", ["a", "b", "c"]], "answer": [4, 7]}
        return columns["answer"]

    assert scores(all_columns, EXAMPLES) == [4.0, 7.0]


def test_trl_arguments_of_text():
    def score(completions, answer, **kwargs):
        assert completions == ["de", "fghi"]
        assert kwargs.pop("prompts") == ["ab", "c"]  # as the data have them
        assert kwargs.pop("completion_ids") == [[12, 13, 2], [14, 15, 16, 17]]
        assert kwargs.pop("trainer_state").global_step == kwargs.pop("step") == 3
        assert callable(kwargs.pop("log_metric")) and callable(kwargs.pop("log_extra"))
        assert kwargs == {"input": ["ab", "c"]}
        return answer

    assert scores(score, state=RewardState(3, 10)) == [4.0, 7.0]
    assert reward(score).columns == ["answer"]
    assert scores(lambda **kwargs: [len(text) for text in kwargs["completions"]]) == [2.0, 4.0]


def test_trl_arguments_of_messages(tmp_path):
    message = {"role": "user", "content": "c"}

    def score(prompts, completions, **kwargs):
        roles = ("system", "user", "assistant", "user")
        pairs = zip(roles, "sabc", strict=True)
        assert prompts == [[{"role": r, "content": c} for r, c in pairs], [message]]
        return [float(len(c[0]["content"])) for c in completions if c[0]["role"] == "assistant"]

    assert scores(score, MESSAGES) == [2.0, 4.0]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ([message], "c")))
    examples = list(RawDataset.load("prompts", path=str(file)))
    assert rows_with(examples).raw_prompts(tiny_tokenizer()) == [[message], "c"]


def stepping(completions, step, **kwargs):
    assert "step" not in kwargs
    return [step] * len(completions)


def test_own_names_keep_their_meaning_and_options_come_before_what_the_run_gives():
    def score(prompts, responses, step, **others):
        assert (prompts, responses, step) == (["ab", "c"], ["de", "fghi"], 5)
        assert set(others) == {"input", "answer"}
        return [0, 1]

    assert scores(score, state=RewardState(5)) == [0.0, 1.0]
    assert scores(lambda responses, step=7: [step] * 2) == [7.0, 7.0]
    assert scores(lambda responses, step=None: [step] * 2, state=RewardState(3)) == [3.0, 3.0]
    assert scores("stepping?step=5") == [5.0, 5.0]


def beginnings(responses, letters: int, least=1, most: int | None = None, whole=False, suffix=""):
    assert least in (0, 1, 0.5) and type(least) is (float if least == 0.5 else int)
    assert type(most) in (int, type(None)) and type(whole) is bool and suffix in ("", "1,2")
    return [len(text[:letters]) + whole for text in responses]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("letters=3,least=0,most=9,suffix=1,2", [2.0, 3.0]),
        ("letters=3,least=0.5,whole=false", [2.0, 3.0]),
        ("letters=3,whole=true", [3.0, 4.0]),
        ("letters=1.5", "'letters=1.5' is not of the form name=whole number"),
        ("letters=1,least=x", "'least=x' is not of the form name=number"),
        ("letters=1,most=1e3", "'most=1e3' is not of the form name=whole number"),
        ("letters=1,whole=0.0", "'whole=0.0' is not of the form name=true or name=false"),
        ("letters=1,least=nan", "'least=nan' is not finite"),
    ],
)
def test_options_have_their_parameters_type(options, expected):
    if isinstance(expected, list):
        assert scores(f"beginnings?{options}") == expected
    else:
        with pytest.raises(UserError, match=re.escape(expected)):
            reward(f"beginnings?{options}")


def test_the_order_of_options_does_not_make_another_function():
    with pytest.raises(UserError, match="x and y are the same function with the same options"):
        reward_specs([("x", "m:f?a=1,b=x,2"), ("y", "m:f?b=x,2,a=1")])
    assert len(reward_specs([("x", "m:f?a=1"), ("y", "m:f?a=2")])) == 2


def test_a_path_is_a_function_only_by_its_form(tmp_path, monkeypatch):
    assert is_function("module:name") and is_function("a.b.c:name?x=1,y=2")
    for path in ("runs/reward", "PKU-Alignment/beaver-7b-v1.0-reward", "reward", "a/b:c"):
        assert not is_function(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:folder").mkdir()
    assert not is_function("odd:folder")


def test_a_column_that_is_not_there():
    with pytest.raises(UserError, match="given: the data of row 1 have no column 'answer'; they"):
        scores("given", [EXAMPLES[0], {"input": "c"}])
    with pytest.raises(UserError, match="column 'input' of the data is not known here"):
        scores("given", None)
    ensemble = RewardEnsemble([RewardSpec("a", "given")], [reward("given")])
    ensemble.check_columns(EXAMPLES, "data")
    told = r"needs answer, which is no column of data \(prompt 1 has: "
    for examples, has in (([{"input": "c"}], "input"), (None, "none"), ([None], "none")):
        with pytest.raises(UserError, match=told + has):
            ensemble.check_columns(examples, "data")
    with pytest.raises(ValueError, match="1 examples for 2 rows"):
        Responses(torch.zeros(2, 3), torch.ones(2, 3), 1, EXAMPLES[:1])


class Length:
    """A callable object."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, responses, factor=1):
        return [self.factor * len(text) for text in responses]


def test_functions_in_place_of_addresses():
    brief = lambda responses: [-len(text) for text in responses]  # noqa: E731
    specs = reward_specs([("long", Length(2)), ("brief", brief)], scales=[("brief", "0.5")])
    assert all(spec.is_function for spec in specs)
    recorded = recordable({"reward_specs": specs, "reward_models": [("long", Length(2))]})
    assert recorded["reward_models"] == [["long", f"{__name__}:Length"]]
    assert recorded["reward_specs"][0] == repr(RewardSpec("long", f"{__name__}:Length"))
    ensemble = load_rewards(specs, tiny_tokenizer(), (EOS,), RewardLoading(32))
    assert ensemble(rows_with(None)).tolist() == [[4.0, -1.0], [8.0, -2.0]]
    assert ensemble.scorers[0].path == f"{__name__}:Length"
    with pytest.raises(UserError, match=r"a and b are the same function .*<lambda>"):
        reward_specs([("a", brief), ("b", brief)])


def test_signs_scales_and_shifts_apply_to_functions():
    path = f"{CONCISE}?max_length=2,max_reward=0"
    spec = RewardSpec("concise", path, sign=-1.0, scale=3.0, shift=1.0)
    ensemble = RewardEnsemble([spec], [reward(path)])
    # raw 0 and -1, minus 1, times -3
    rewards = ensemble(rows_with(None))
    assert rewards.tolist() == [[3.0], [6.0]]
    assert ensemble.raw(rewards).tolist() == [[0.0], [-1.0]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0.0, 1.0, 2.0], r"returned shape \(3,\) for 2 responses"),
        ([None], r"returned shape \(1,\) for 2 responses"),
        (1.0, r"returned shape \(\)"),
        (None, "returned a NoneType; one number or None per response is wanted"),
        ([0.0, float("inf")], "not finite: inf in row 1"),
        ([0.0, 1e300], "not finite: inf in row 1"),
        ([0.0, 10**400], "returned a list; one number"),
        (torch.tensor([nan, 0.0]), "not finite: nan in row 0; None says that a row does not count"),
        ([1.0, "2.0"], "returned '2.0' in row 1"),
        ([None, "a"], "returned 'a' in row 1"),
        ([[1.0], [1.0, 2.0]], r"returned \[1.0\] in row 0"),
        (torch.tensor([1j, 1.0]), "complex numbers"),
        ({"a": 1.0}, "returned a dict"),
    ],
)
def test_what_a_function_returns_is_checked(returned, message):
    with pytest.raises(UserError, match=message) as caught:
        scores(lambda responses: returned)
    assert f"{__name__}:" in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ([None, 1], [nan, 1.0]),
        ((0.5, None), [0.5, nan]),
        ([None, None], [nan, nan]),
        (np.array([None, 2.0]), [nan, 2.0]),
    ],
)
def test_none_says_that_a_row_does_not_count(returned, expected):
    np.testing.assert_array_equal(scores(lambda responses: returned), expected)


def test_the_nan_of_a_model_shows():
    """It is no missing value: the divergence check must find it."""
    scorers = [lambda responses: torch.tensor([nan, 1.0]), reward(lambda responses: [None, 1.0])]
    specs = [RewardSpec("a", "model", sign=-1.0), RewardSpec("b", "m:f", scale=2.0)]
    found = RewardEnsemble(specs, scorers)(rows_with(TEXTS))
    np.testing.assert_array_equal(found, [[-np.inf, nan], [-1.0, 2.0]])


def test_what_functions_log():
    def score(completions, log_metric, log_extra):
        log_metric("long", sum(map(len, completions)))
        log_extra("letters", [text[0] for text in completions])
        return [0.0, 1.0]

    def wrong(completions, log_extra):
        log_extra("letters", [1])
        return [0.0, 1.0]

    state, responses = RewardState(), rows_with(TEXTS)
    ensemble = RewardEnsemble([RewardSpec("a", score)], [reward(score, state)], state=state)
    ensemble(responses)
    assert responses.extra == {"letters": ["d", "f"]}
    state.log_metric("long", 0)
    assert ensemble.logged() == {"long": 3.0}
    assert ensemble.logged() == {}
    with pytest.raises(UserError, match="wrong logged 1 values of 'letters' for 2 responses"):
        scores(wrong)


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
    assert ensemble(rows_with(EXAMPLES)).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert len(calls) == 1
