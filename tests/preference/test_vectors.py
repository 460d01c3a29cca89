from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.preference import (
    PreferenceError,
    check_preference,
    format_preference,
    parse_preference,
)

NAMES = ("helpful", "harmless")


def message(call, *args):
    with pytest.raises(PreferenceError) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    "rows", [[0.25, 0.75], [0.0, 1.0], [[0.5, 0.5], [1.0, 0.0]], [0.50004, 0.5]]
)
def test_points_of_the_simplex_pass(rows):
    check_preference(torch.tensor(rows), 2)


@pytest.mark.parametrize(
    ("values", "shape"), [([0.5, 0.25, 0.25], "(3,)"), ([[[0.5, 0.5]]], "(1, 1, 2)"), (1.0, "()")]
)
def test_another_shape_is_refused(values, shape):
    text = message(check_preference, torch.tensor(values), 2)
    assert text == f"a preference vector must have 2 entries, not shape {shape}"


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_an_entry_that_is_not_finite_is_refused(value, shown):
    text = message(check_preference, torch.tensor([value, 0.5]), 2)
    assert text == f"preference vector ({shown}, 0.5) has an entry that is not finite"


def test_a_negative_entry_is_refused():
    text = message(check_preference, torch.tensor([1.25, -0.25]), 2)
    assert text == "preference vector (1.25, -0.25) has a negative entry"


def test_a_sum_other_than_one_is_refused_in_any_row():
    text = message(check_preference, torch.tensor([[0.5, 0.5], [0.5, 0.75]]), 2)
    assert text == "preference vector (0.5, 0.75) sums to 1.25, not to 1"


def test_the_tolerance_is_an_argument():
    vector = torch.tensor([0.51, 0.5])
    check_preference(vector, 2, atol=0.01)
    assert "sums to 1.01" in message(check_preference, vector, 2, 1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "0.7,0.3",
        " 0.7 , 0.3 ,",
        "helpful=0.7,harmless=0.3",
        "harmless=0.3, helpful = 0.7",
        "7e-1,.3",
    ],
)
def test_vectors_are_read_by_position_and_by_name(text):
    read = parse_preference(text, NAMES)
    assert read.dtype == torch.float32
    assert torch.equal(read, torch.tensor([0.7, 0.3]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.7,x", "'x' in preference '0.7,x' is not a number"),
        ("helpful=a,harmless=1", "'a' in preference 'helpful=a,harmless=1' is not a number"),
        (
            "0.5,0.25,0.25",
            "preference '0.5,0.25,0.25' has 3 entries, but there are 2 objectives "
            "(helpful, harmless)",
        ),
        ("", "preference '' has 0 entries, but there are 2 objectives (helpful, harmless)"),
        ("0.7,,0.3", "'' in preference '0.7,,0.3' is not a number"),
        ("helpful=0.7,0.3", "preference 'helpful=0.7,0.3' mixes names and positions"),
        (
            "helpful=0.7,short=0.3",
            "preference 'helpful=0.7,short=0.3': unknown objective 'short' "
            "(known: helpful, harmless)",
        ),
        ("helpful=0.7,helpful=0.3", "preference 'helpful=0.7,helpful=0.3' names 'helpful' twice"),
        ("helpful=1", "preference 'helpful=1' says nothing of harmless"),
        ("0.7,0.7", "preference vector (0.7, 0.7) sums to 1.4, not to 1"),
        ("nan,1", "preference vector (nan, 1) has an entry that is not finite"),
        ("2,-1", "preference vector (2, -1) has a negative entry"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text, said):
    assert message(parse_preference, text, NAMES) == said


def test_an_error_is_a_value_error():
    assert issubclass(PreferenceError, ValueError)


def test_formats_with_and_without_names():
    vector = torch.tensor([0.7, 0.3])
    assert format_preference(vector) == "0.7,0.3"
    assert format_preference(vector, NAMES) == "helpful=0.7,harmless=0.3"


def test_four_digits_are_kept():
    assert format_preference(torch.tensor([1 / 3, 2 / 3])) == "0.3333,0.6667"


@pytest.mark.parametrize("names", [(), NAMES])
def test_what_is_formatted_can_be_read_again(names):
    vector = torch.tensor([1 / 3, 2 / 3])
    read = parse_preference(format_preference(vector, names), NAMES)
    torch.testing.assert_close(read, vector, rtol=0, atol=5e-5)


def test_names_must_be_as_many_as_entries():
    with pytest.raises(ValueError, match="zip"):
        format_preference(torch.tensor([1.0, 0.0]), ("helpful",))
