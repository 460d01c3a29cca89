"""λ as text, numbers and grids, and the names of objectives."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.preference import (
    PreferenceError,
    check_objective_names,
    check_preference,
    default_grid,
    format_preference,
    parse_preference,
    preference_grid,
)

NAMES = ("helpful", "harmless")
OF_MANY_SCRIPTS = [
    *("helpful", "harmless-2", "v1.0", "_x", "hilfreich_über", "有用", "उपयोगी", "a" * 64)
]


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
    ("values", "said"),
    [
        ([0.5, 0.25, 0.25], "a preference vector must have 2 entries, not shape (3,)"),
        ([[[0.5, 0.5]]], "a preference vector must have 2 entries, not shape (1, 1, 2)"),
        ([float("nan"), 0.5], "preference vector (nan, 0.5) has an entry that is not finite"),
        ([1.25, -0.25], "preference vector (1.25, -0.25) has a negative entry"),
        ([[0.5, 0.5], [0.5, 0.75]], "preference vector (0.5, 0.75) sums to 1.25, not to 1"),
    ],
)
def test_what_is_no_point_of_the_simplex(values, said):
    assert message(check_preference, torch.tensor(values), 2) == said


@pytest.mark.parametrize(
    "given",
    [
        "0.7,0.3",
        " 0.7 , 0.3 ,",
        "helpful=0.7,harmless=0.3",
        "harmless=0.3, helpful = 0.7",
        "7e-1,.3",
        [0.7, 0.3],
        {"harmless": 0.3, "helpful": 0.7},
        torch.tensor([0.7, 0.3]),
    ],
    ids=str,
)
def test_vectors_are_read_by_position_and_by_name(given):
    read = parse_preference(given, NAMES)
    assert read.dtype == torch.float32
    assert torch.equal(read, torch.tensor([0.7, 0.3]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0.7,x", "'x' in preference '0.7,x' is not a number"),
        (
            "0.5,0.25,0.25",
            "preference '0.5,0.25,0.25' has 3 entries, but there are 2 objectives "
            "(helpful, harmless)",
        ),
        ("helpful=0.7,0.3", "preference 'helpful=0.7,0.3' mixes names and positions"),
        (
            "helpful=0.7,short=0.3",
            "preference 'helpful=0.7,short=0.3': unknown objective 'short' "
            "(known: helpful, harmless)",
        ),
        ("helpful=0.7,helpful=0.3", "preference 'helpful=0.7,helpful=0.3' names 'helpful' twice"),
        ("helpful=1", "preference 'helpful=1' says nothing of harmless"),
        ("0.7,0.7", "preference vector (0.7, 0.7) sums to 1.4, not to 1"),
        (3, "preference 3 is neither text, numbers by name nor a vector of numbers"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(given, said):
    assert message(parse_preference, given, NAMES) == said


def test_formats_with_and_without_names():
    vector = torch.tensor([1 / 3, 2 / 3])
    assert format_preference(vector) == "0.3333,0.6667"
    assert format_preference(vector, NAMES) == "helpful=0.3333,harmless=0.6667"
    with pytest.raises(ValueError, match="zip"):
        format_preference(vector, ("helpful",))


def test_names_of_any_script_can_be_written_in_a_vector():
    check_objective_names(OF_MANY_SCRIPTS)
    text = ",".join(f"{name}=0.125" for name in OF_MANY_SCRIPTS)
    vector = parse_preference(text, OF_MANY_SCRIPTS)
    written = format_preference(vector, OF_MANY_SCRIPTS)
    assert parse_preference(written, OF_MANY_SCRIPTS).equal(vector)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a b", "a=b", "a,b", "a@3", "a:b", "a/b", "..", "../x", "a\\b", ".a", "-a"),
        *("a\n", "a\x1b[31m", "a" * 65, "\u200b", "a\ud800", "$x$", "a\u2028"),
    ],
)
def test_what_is_no_name(name):
    said = message(check_objective_names, ["helpful", name])
    assert "a name has letters" in said and said.isprintable()


def test_two_objectives_are_the_papers_eleven_points_in_order():
    expected = torch.tensor([[i / 10, (10 - i) / 10] for i in range(11)])
    grid = preference_grid(2)
    assert grid.dtype == torch.float32 and torch.equal(grid, expected)


@pytest.mark.parametrize(("pref_dim", "count"), [(1, 1), (2, 11), (3, 66), (4, 286)])
def test_number_of_points_at_a_step_of_a_tenth(pref_dim, count):
    grid = preference_grid(pref_dim, 0.1)
    assert grid.shape == (count, pref_dim)
    assert len({tuple(row) for row in grid.tolist()}) == count
    check_preference(grid, pref_dim, atol=1e-6)


def test_grids_by_hand():
    expected = [[0, 0, 1], [0, 0.5, 0.5], [0, 1, 0], [0.5, 0, 0.5], [0.5, 0.5, 0], [1, 0, 0]]
    assert preference_grid(3, 0.5).tolist() == expected
    assert preference_grid(3, 1.0).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert preference_grid(2, 1 / 3).shape == (4, 2)


@pytest.mark.parametrize(
    ("step", "shown"),
    [(0.3, "0.3"), (0.15, "0.15"), (0.0, "0"), (1e-320, "9.99989e-321"), (-0.1, "-0.1"), (2, "2")],
)
def test_a_step_that_does_not_divide_one_is_refused(step, shown):
    said = message(preference_grid, 2, step)
    assert said == f"grid step {shown} does not divide 1: use 0.1, 0.25, 0.5, ..."
    assert message(preference_grid, 0) == "a grid needs at least one objective, not 0"


@pytest.mark.parametrize(
    ("pref_dim", "step", "points", "fitting"),
    [
        (2, 1e-9, "1,000,000,001", "use 0.01 or more"),
        (2, 1e-200, "over 10^15", "use 0.01 or more"),
        (3, 0.005, "20,301", "use 0.01 or more"),
        (10, 0.1, "92,378", "use 0.2 or more"),
        (200, 0.5, "20,100", "use 1 or more"),
    ],
)
def test_a_grid_of_too_many_vectors_is_refused(pref_dim, step, points, fitting):
    said = message(preference_grid, pref_dim, step)
    assert f"grid step {step:g} makes {points} vectors of {pref_dim} obj" in said
    assert said.endswith(fitting)
    assert len(preference_grid(pref_dim, float(fitting.split()[1]))) <= 10_000


@pytest.mark.parametrize(
    ("pref_dim", "points"), [(2, 11), (3, 66), (4, 286), (5, 126), (7, 210), (10, 55), (24, 300)]
)
def test_the_default_gets_coarser_with_more_objectives(pref_dim, points):
    grid = default_grid(pref_dim)
    assert grid.shape == (points, pref_dim)
    assert len(grid.unique(dim=0)) == points
    torch.testing.assert_close(grid.sum(dim=-1), torch.ones(points))
    grid = default_grid(30)  # the vertices and the centre
    assert grid[:-1].equal(torch.eye(30))
    assert grid[-1].tolist() == pytest.approx([1 / 30] * 30)
