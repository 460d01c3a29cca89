"""Tables of fronts, and titles of their pictures."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.show.pages import folded_table
from safe_rlhf_panacea.show.tables import Table, align, front_table, fronts_title, indicator_table
from tests.eval.evaluations import front as made_up
from tests.eval.evaluations import points


@pytest.fixture
def front():
    three = [
        *points([[0.0, 1.0]], [[1.0, 3.0]], [0.0125, 0.02], kl=0.25, kl_error=0.125),
        *points([[0.25, 0.75]], [[0.5, 2.5]], [0.03, 0.04]),
        *points([[1.0, 0.0]], [[4.0, -1.25]], [0.05, 0.06]),
    ]
    return made_up(1.0, label="Panacea", points=three, reference_point=[0.0, -2.0])


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


def test_indicators_are_in_the_table(front):
    second = made_up(1.0, label="Rewarded soups", reference_point=[0.0, -2.0])
    head, _, line, other, note = indicator_table([front, second]).split("\n")
    assert head.split("  ")[0] == "method"
    for name in ("hypervolume ↑", "inner product ↑", "sparsity ↓", "spacing ↓", "dominated ↓"):
        assert name in head
    assert head.endswith("Spearman J1, λ1  Spearman J2, λ2")
    # 4 · 0.75 + 1 · 4.25; (3 + 2 + 4) / 3; (9 + 18.0625) / 2; two points are equally far.
    assert line.split() == [
        "Panacea", "7.2500", "3.0000", "13.5312", "0.0000", "1", "0.500", "1.000"
    ]  # fmt: skip
    assert other.split()[:3] == ["Rewarded", "soups", "2.2500"]  # 1/2 · 5/2 + 1/2 · 2
    assert note == "reference point of the hypervolume: (0, -2)"
    assert "Spearman J3, λ3" in indicator_table([made_up(1.0, 3)])
    with pytest.raises(UserError) as caught:
        indicator_table([front, made_up(1.0)])
    assert str(caught.value) == (
        "hypervolumes measured from different reference points [[0.0, -2.0], [0.0, 0.0]] "
        "cannot stand in one table: use one for all"
    )


def test_markdown_and_html_hold_any_text():
    table = Table("t <1>", ["a", "b"], [["x|y\n<i>", 0.123456], [None, 12345]])
    assert table.markdown().split("\n")[2:] == ["| x\\|y \\<i\\> | 0.1235 |", "|  | 12345 |"]
    page = folded_table(table)
    assert "t &lt;1&gt;" in page and "x|y<br>&lt;i&gt;" in page
    assert '<td class="n">0.1235</td>' in page and '<td class="n">12,345</td>' in page
    assert page.startswith("<details open>")
    assert folded_table(Table("t", ["a"], [["x"]] * 15)).startswith("<details>")


OURS = made_up(1.0, label="run")
SOUPS = OURS.having(method="rewarded_soups", label="soups")
EACH = OURS.having(method="discrete_policies")
OTHER = OURS.having(method="of another version")
THREE = made_up(1.0, 3)


@pytest.mark.parametrize(
    ("fronts", "title"),
    [
        ([OURS], "One adapter, any λ: helpful against harmless"),
        ([THREE], "One adapter, any λ: helpful, harmless and concise"),
        ([SOUPS], "Rewarded Soups: helpful against harmless"),
        ([OTHER], "run: helpful against harmless"),
        (
            [EACH, OURS, SOUPS],
            "One model per λ, beside one adapter, any λ and Rewarded Soups: "
            "helpful against harmless",
        ),
        ([OURS, OURS.having(label="old")], "run and old: helpful against harmless"),
        ([OURS] * 4, "4 fronts: helpful against harmless"),
    ],
)
def test_what_one_sees(fronts, title):
    assert fronts_title(fronts) == title
