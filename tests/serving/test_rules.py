"""Bounds and defaults, before any model is loaded."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.preference import PreferenceError
from safe_rlhf_panacea.serving.protocol import ApiError
from safe_rlhf_panacea.serving.rules import Rules

NAMES = ("helpful", "harmless", "brief")


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        ([], [1 / 3, 1 / 3, 1 / 3]),
        (["helpful<=0.1"], [0.1 / 2.1, 1 / 2.1, 1 / 2.1]),
        (["helpful>=0.5"], [2 / 3, 1 / 6, 1 / 6]),
        (["helpful>=0.5", "harmless>=0.5"], [0.5, 0.5, 0.0]),
        (["helpful<=0.5", "harmless<=0.5", "brief<=0"], [0.5, 0.5, 0.0]),
    ],
)
def test_the_default_lies_within_the_bounds(allow, expected):
    rules = Rules.of("x", NAMES, allow=allow)
    assert torch.allclose(rules.default, torch.tensor(expected))
    assert rules.broken(rules.default) is None


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        (["helpful<0.8"], "is not of the form"),
        (["funny<=0.8"], "unknown objective 'funny' \\(known: helpful, harmless, brief\\)"),
        (["helpful<=x"], "x is not between 0 and 1"),
        (["helpful<=nan"], "nan is not between 0 and 1"),
        (["helpful<=0.2", "helpful>=0.3"], "leaves no preference vector"),
        (["helpful<=0.2", "harmless<=0.2", "brief<=0.5"], "leaves no preference vector"),
        (["helpful>=0.6", "brief>=0.6"], "leaves no preference vector"),
    ],
)
def test_bounds_that_are_refused(allow, message):
    with pytest.raises(UserError, match=message):
        Rules.of("x", NAMES, allow=allow)


def test_a_default_that_is_refused():
    with pytest.raises(UserError, match="helpful is 1: this server allows"):
        Rules.of("x", NAMES, "1,0,0", ["helpful<=0.5"])
    with pytest.raises(PreferenceError, match="sums to 2"):
        Rules.of("x", NAMES, "1,1,0")
    with pytest.raises(UserError, match="does not depend on λ"):
        Rules.of("x", (), "1,0")


def test_names_with_an_at_sign():
    rules = Rules.of("me@home", ("a", "b"))
    assert rules.resolve("me@home", None) is rules.default
    assert rules.resolve("me@home@0.25,0.75", None).tolist() == [0.25, 0.75]
    with pytest.raises(ApiError, match="unknown model 'me'"):
        rules.resolve("me", None)


def test_an_adapter_without_preference():
    rules = Rules.of("plain", ())
    assert rules.resolve(None, None).tolist() == [] and rules.label(rules.default) == "plain"
    with pytest.raises(ApiError, match="does not depend"):
        rules.resolve("plain", [1.0])
