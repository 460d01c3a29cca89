from __future__ import annotations

import pytest

from safe_rlhf_panacea.preference import (
    PreferenceError,
    check_objective_names,
    format_preference,
    parse_preference,
)

NAMES = ["helpful", "harmless-2", "v1.0", "_x", "hilfreich_über", "有用", "उपयोगी", "a" * 64]


def test_names_of_any_script_can_be_written_in_a_vector():
    check_objective_names(NAMES)
    vector = parse_preference(",".join(f"{name}=0.125" for name in NAMES), NAMES)
    assert parse_preference(format_preference(vector, NAMES), NAMES).equal(vector)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a b", "a=b", "a,b", "a@3", "a:b", "a/b", "..", "../x", "a\\b", ".a", "-a"),
        *("a\n", "a\x1b[31m", "a" * 65, "\u200b", "a\ud800", "$x$", "a\u2028"),
    ],
)
def test_what_is_no_name(name):
    with pytest.raises(PreferenceError) as caught:
        check_objective_names(["helpful", name])
    assert "a name has letters" in str(caught.value)
    assert str(caught.value).isprintable()
