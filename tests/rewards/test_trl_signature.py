"""Functions with TRL's arguments, ``async`` ones, None for a row, and Python callables."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.functions import FunctionReward
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses, RewardState
from safe_rlhf_panacea.rewards.spec import RewardSpec, reward_specs
from safe_rlhf_panacea.runs.run_record import recordable
from tests.rewards.test_scorers import EOS, padded_rows
from tests.tiny import tiny_tokenizer

TEXTS = [{"input": "ab", "answer": 4}, {"input": "c", "answer": 7}]
MESSAGES = [{"input": ["a", "b", "c"], "system": "s", "answer": 4}, {"input": ["c"], "answer": 7}]
nan = float("nan")


def rows_with(examples):
    rows = padded_rows(tiny_tokenizer())
    return Responses(rows.input_ids, rows.attention_mask, 2, examples)


def reward(function, state=None):
    return FunctionReward(function, tiny_tokenizer(), (EOS,), state)


def test_trl_arguments_of_text():
    def score(completions, answer, **kwargs):
        assert completions == ["de", "fghi"]
        assert kwargs.pop("prompts") == ["ab", "c"]  # as the data have them
        assert kwargs.pop("completion_ids") == [[12, 13, 2], [14, 15, 16, 17]]
        assert kwargs.pop("trainer_state").global_step == 3
        assert callable(kwargs.pop("log_metric"))
        assert callable(kwargs.pop("log_extra"))
        assert kwargs.pop("step") == 3
        assert kwargs == {"input": ["ab", "c"]}
        return answer

    assert reward(score, RewardState(3, 10))(rows_with(TEXTS)).tolist() == [4.0, 7.0]
    assert reward(score).columns == ["answer"]


def test_trl_arguments_of_messages():
    def score(prompts, completions, **kwargs):
        assert prompts == [
            [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ],
            [{"role": "user", "content": "c"}],
        ]
        return [float(len(c[0]["content"])) for c in completions if c[0]["role"] == "assistant"]

    assert reward(score)(rows_with(MESSAGES)).tolist() == [2.0, 4.0]


def test_a_prompt_of_one_message_is_a_list_of_messages(tmp_path):
    message = {"role": "user", "content": "c"}
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ([message], "c")))
    examples = list(RawDataset.load("prompts", path=str(file)))
    prompts = rows_with(examples).raw_prompts(tiny_tokenizer())
    assert prompts == [[message], "c"]


def test_everything_in_kwargs_alone():
    def score(**kwargs):
        return [len(text) for text in kwargs["completions"]]

    assert reward(score)(rows_with(TEXTS)).tolist() == [2.0, 4.0]


def test_own_names_keep_their_meaning():
    def score(prompts, responses, step, **others):
        assert (prompts, responses, step) == (["ab", "c"], ["de", "fghi"], 5)
        assert set(others) == {"input", "answer"}
        return [0, 1]

    assert reward(score, RewardState(5))(rows_with(TEXTS)).tolist() == [0.0, 1.0]


def test_an_option_that_is_called_like_something_of_the_run():
    """A default that is a value says so, and the command line may too."""
    assert reward(lambda responses, step=7: [step] * 2)(rows_with(TEXTS)).tolist() == [7.0, 7.0]
    found = reward(lambda responses, step=None: [step] * 2, RewardState(3))(rows_with(TEXTS))
    assert found.tolist() == [3.0, 3.0]
    assert reward(f"{__name__}:stepping?step=5")(rows_with(TEXTS)).tolist() == [5.0, 5.0]


def stepping(completions, step, **kwargs):
    assert "step" not in kwargs
    return [step] * len(completions)


async def later(completions):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


async def later_row(completions):
    await asyncio.sleep(0)
    return [1 / (4 - len(text)) for text in completions]


async def leaves(completions):
    sys.exit(0)


def test_async_functions():
    assert reward(later)(rows_with(TEXTS)).tolist() == [2.0, 4.0]

    async def in_a_notebook():  # whose thread runs an event loop
        return reward(f"{__name__}:later")(rows_with(TEXTS)).tolist()

    assert asyncio.run(in_a_notebook()) == [2.0, 4.0]
    message = r"raised ZeroDivisionError: .* in row 1, at .*test_trl_signature.py:\d+ in later_row"
    with pytest.raises(UserError, match=message):
        reward(later_row)(rows_with(TEXTS))
    with pytest.raises(UserError, match="raised SystemExit: 0 in row 0"):
        reward(leaves)(rows_with(TEXTS))
    assert reward(later)(rows_with(TEXTS)).tolist() == [2.0, 4.0]  # the loop is still there


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

    scorers = [reward(first), reward(second)]
    specs = [RewardSpec("a", first), RewardSpec("b", second)]
    found = RewardEnsemble(specs, scorers)(rows_with(TEXTS))
    assert torch.allclose(found, torch.tensor([[1.0, 3.0], [2.0, nan]]), equal_nan=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([None, 1], [nan, 1.0]),
        ((0.5, None), [0.5, nan]),
        ([None, None], [nan, nan]),
        (np.array([None, 2.0]), [nan, 2.0]),
    ],
)
def test_none_says_that_a_row_does_not_count(given, expected):
    found = reward(lambda responses: given)(rows_with(TEXTS))
    assert torch.equal(found, torch.tensor(expected)) or torch.allclose(
        found, torch.tensor(expected), equal_nan=True
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([nan, 1.0], "not finite: nan in row 0; None says that a row does not count"),
        ([None], r"returned shape \(1,\) for 2 responses"),
        ([None, "a"], "returned 'a' in row 1"),
    ],
)
def test_what_is_no_number_beside_none(given, message):
    with pytest.raises(UserError, match=message):
        reward(lambda responses: given)(rows_with(TEXTS))


def test_the_nan_of_a_model_shows():
    """It is no missing value: the divergence check must find it."""
    scorers = [lambda responses: torch.tensor([nan, 1.0]), reward(lambda responses: [None, 1.0])]
    specs = [RewardSpec("a", "model", sign=-1.0), RewardSpec("b", "m:f", scale=2.0)]
    found = RewardEnsemble(specs, scorers)(rows_with(TEXTS))
    expected = torch.tensor([[-torch.inf, nan], [-1.0, 2.0]])
    assert torch.allclose(found, expected, equal_nan=True)


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
        reward(wrong)(rows_with(TEXTS))


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
    loading = RewardLoading(32)
    ensemble = load_rewards(specs, tiny_tokenizer(), (EOS,), loading)
    assert ensemble(rows_with(None)).tolist() == [[4.0, -1.0], [8.0, -2.0]]
    assert ensemble.scorers[0].path == f"{__name__}:Length"
    with pytest.raises(UserError, match=r"a and b are the same function .*<lambda>"):
        reward_specs([("a", brief), ("b", brief)])
