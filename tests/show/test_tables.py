from __future__ import annotations

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.front import Front, FrontPoint
from safe_rlhf_panacea.fronts.indicators import summarize
from safe_rlhf_panacea.show.tables import (
    Table,
    align,
    front_table,
    indicator_table,
    table_html,
)


@pytest.fixture
def front():
    points = [
        FrontPoint([0.0, 1.0], [1.0, 3.0], [0.0125, 0.02], 0.25, 0.125),
        FrontPoint([0.25, 0.75], [0.5, 2.5], [0.03, 0.04]),
        FrontPoint([1.0, 0.0], [4.0, -1.25], [0.05, 0.06]),
    ]
    return Front(["helpful", "harmless"], points, "Panacea")


def test_columns_are_aligned_below_a_rule():
    assert align([["name", "n"], ["a", "10"], ["long one", "9"]]).split("\n") == [
        "name       n",
        "------------",
        "a         10",
        "long one   9",
    ]


def test_a_front_has_one_line_for_every_preference(front):
    head, rule, *lines = front_table(front).split("\n")
    assert head.split() == ["λ", "(helpful,", "harmless)", "helpful", "harmless", "KL"]
    assert set(rule) == {"-"}
    assert [line.split() for line in lines] == [
        [
            *("(0.00,", "1.00)", "1.000", "±", "0.013", "3.000", "±", "0.020"),
            *("0.250", "±", "0.125"),
        ],
        ["(0.25,", "0.75)", "0.500", "±", "0.030", "2.500", "±", "0.040", "dominated"],
        ["(1.00,", "0.00)", "4.000", "±", "0.050", "-1.250", "±", "0.060"],
    ]


def test_equal_points_are_not_marked(front):
    front.points[1].objectives = [1.0, 3.0]
    assert "dominated" not in front_table(front)


def test_indicators_are_in_the_table(front):
    summary = summarize(front, [0.0, -2.0])
    head, _, line, note = indicator_table({"Panacea": summary}).split("\n")
    assert head.split("  ")[0] == "method"
    for name in ("hypervolume ↑", "inner product ↑", "sparsity ↓", "spacing ↓", "dominated ↓"):
        assert name in head
    assert head.endswith("Spearman J1, λ1  Spearman J2, λ2")
    # 4 · 0.75 + 1 · 4.25; (3 + 2 + 4) / 3; (9 + 18.0625) / 2; two points are equally far.
    assert line.split() == [
        "Panacea", "7.2500", "3.0000", "13.5312", "0.0000", "1", "0.500", "1.000"
    ]  # fmt: skip
    assert note == "reference point of the hypervolume: (0, -2)"


def test_a_line_for_every_method(front):
    first = summarize(front, [0.0, -2.0])
    second = {**first, "hypervolume": 1.5, "dominated": 3}
    lines = indicator_table({"Panacea": first, "Rewarded soups": second}).split("\n")
    assert lines[2].split()[:2] == ["Panacea", "7.2500"]
    assert lines[3].split()[:3] == ["Rewarded", "soups", "1.5000"]
    assert len(lines) == 5


def test_three_objectives_have_three_correlations():
    points = [FrontPoint([1.0, 0.0, 0.0], [1.0, 2.0, 3.0], [0.0] * 3)]
    summary = summarize(Front(["a", "b", "c"], points), [0.0] * 3)
    assert "Spearman J3, λ3" in indicator_table({"x": summary})


def test_different_reference_points_are_not_compared(front):
    summaries = {"one": summarize(front, [0.0, -2.0]), "two": summarize(front, [0.0, 0.0])}
    with pytest.raises(UserError) as caught:
        indicator_table(summaries)
    assert str(caught.value) == (
        "hypervolumes measured from different reference points [[0.0, -2.0], [0.0, 0.0]] "
        "cannot stand in one table: use one for all"
    )


def test_markdown_and_html_hold_any_text():
    table = Table("t <1>", ["a", "b"], [["x|y\n<i>", 0.123456], [None, 12345]])
    assert table.markdown().split("\n")[2:] == ["| x\\|y \\<i\\> | 0.1235 |", "|  | 12345 |"]
    page = table.html()
    assert "t &lt;1&gt;" in page and "x|y<br>&lt;i&gt;" in page
    assert '<td class="n">0.1235</td>' in page and '<td class="n">12,345</td>' in page
    assert page.startswith("<details open>")
    assert Table("t", ["a"], [["x"]] * 15).html().startswith("<details>")
    coloured = table_html(["a"], [["+1"]], [["more"]], kind="names")
    assert '<div class="wide names">' in coloured and '<td class="more">+1</td>' in coloured
