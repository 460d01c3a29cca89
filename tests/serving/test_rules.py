"""Bounds and defaults, before any model is loaded."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
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
    ("allow", "default", "message"),
    [
        (["helpful<0.8"], None, "is not of the form"),
        (["helpful<=x"], None, "x is not between 0 and 1"),
        (["helpful<=nan"], None, "nan is not between 0 and 1"),
        (["helpful<=0.2", "helpful>=0.3"], None, "leaves no preference vector"),
        (["helpful<=0.2", "harmless<=0.2", "brief<=0.5"], None, "leaves no preference vector"),
        (["helpful>=0.6", "brief>=0.6"], None, "leaves no preference vector"),
        ([], "1,1,0", "sums to 2"),
    ],
)
def test_flags_that_are_refused(allow, default, message):
    with pytest.raises(UserError, match=message):
        Rules.of("x", NAMES, default, allow)


def test_names_with_an_at_sign_and_an_adapter_without_preference():
    rules = Rules.of("me@home", ("a", "b"))
    assert rules.resolve("me@home", None) is rules.default
    assert rules.resolve("me@home@0.25,0.75", None).tolist() == [0.25, 0.75]
    with pytest.raises(ApiError, match="unknown model 'me'"):
        rules.resolve("me", None)
    plain = Rules.of("plain", ())
    assert plain.resolve(None, None).tolist() == [] and plain.label(plain.default) == "plain"
    with pytest.raises(ApiError, match="does not depend"):
        plain.resolve("plain", [1.0])
    with pytest.raises(UserError, match="does not depend on λ"):
        Rules.of("x", (), "1,0")
