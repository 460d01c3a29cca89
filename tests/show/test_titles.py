"""Titles of pictures."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea.show.titles import fronts_title

OURS = {"method": "panacea", "objectives": ["positive", "concise"], "label": "run"}
SOUPS = {**OURS, "method": "rewarded_soups"}
EACH = {**OURS, "method": "discrete_policies"}
OTHER = {**OURS, "method": "of another version"}
THREE = {**OURS, "objectives": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("results", "labels", "title"),
    [
        ([OURS], [], "One adapter, any λ: positive against concise"),
        ([THREE], ["x"], "One adapter, any λ: a, b and c"),
        ([SOUPS], [], "Rewarded Soups: positive against concise"),
        ([OTHER], [], "run: positive against concise"),
        (
            [OURS, SOUPS],
            ["x", "y"],
            "One adapter, any λ, beside Rewarded Soups: positive against concise",
        ),
        (
            [EACH, OURS, SOUPS],
            [],
            "One model per λ, beside one adapter, any λ and Rewarded Soups: "
            "positive against concise",
        ),
        ([OURS, OURS], ["new", "old"], "new and old: positive against concise"),
        ([OURS] * 4, ["a", "b", "c", "d"], "4 fronts: positive against concise"),
    ],
)
def test_what_one_sees(results, labels, title):
    assert fronts_title(results, labels) == title
