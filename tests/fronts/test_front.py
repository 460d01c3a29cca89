from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.fronts.front import Front, FrontPoint
from safe_rlhf_panacea.fronts.measure import NotFiniteError, check_counted
from safe_rlhf_panacea.fronts.reward_front import reward_front


@pytest.fixture
def front():
    points = [
        FrontPoint([0.0, 1.0], [1.0, 4.0], [0.1, 0.2]),
        FrontPoint([1.0, 0.0], [3.0, 2.0], [0.3, 0.4]),
    ]
    return Front(["helpful", "harmless"], points, "Panacea", {"seed": 1, "models": {"sft": "x"}})


def test_arrays_are_in_the_order_of_the_grid(front):
    assert front.values.tolist() == [[1.0, 4.0], [3.0, 2.0]]
    assert front.preferences.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert front.errors.tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert {a.dtype for a in (front.values, front.preferences, front.errors)} == {
        np.dtype(np.float64)
    }


def test_a_front_comes_back_from_json(front):
    assert Front.from_dict(json.loads(json.dumps(front.to_dict()))) == front


def test_the_plain_values_are_copies(front):
    plain = front.to_dict()
    plain["points"][0]["objectives"][0] = 99.0
    plain["metadata"]["models"]["sft"] = "y"
    assert front.values[0, 0] == 1.0
    assert front.metadata["models"] == {"sft": "x"}


def test_label_and_metadata_may_be_missing():
    point = {"preference": [1.0], "objectives": [2.0], "standard_errors": [0.5]}
    front = Front.from_dict({"objectives": ["helpful"], "points": [point]})
    assert front == Front(["helpful"], [FrontPoint([1.0], [2.0], [0.5])], "", {})


@pytest.mark.parametrize("key", ["objectives", "points"])
def test_objectives_and_points_may_not(front, key):
    plain = front.to_dict()
    del plain[key]
    with pytest.raises(KeyError, match=key):
        Front.from_dict(plain)


def test_fronts_do_not_share_their_metadata():
    first, second = Front(["a"], []), Front(["a"], [])
    first.metadata["x"] = 1
    assert second.metadata == {}


def test_responses_for_which_a_reward_does_not_count_are_left_out():
    rewards = torch.tensor([[[1.0, 4.0], [2.0, math.nan], [6.0, math.nan], [math.nan, 8.0]]])
    front = reward_front(rewards.double(), torch.tensor([[0.5, 0.5]]), ["a", "b"])
    (point,) = front.points
    assert point.objectives == [3.0, 6.0]
    expected = [statistics.stdev([1, 2, 6]) / 3**0.5, statistics.stdev([4, 8]) / 2**0.5]
    assert point.standard_errors == pytest.approx(expected)
    check_counted(rewards)
    without = torch.cat([rewards, torch.tensor([[[1.0, math.nan]] * 4])])  # at the second λ
    with pytest.raises(NotFiniteError, match="objective 2 of 2 counts for no response to the pro"):
        check_counted(without)
