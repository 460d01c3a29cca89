"""Series, tables, histograms and pictures of hand-made evaluations."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from safe_rlhf_panacea.dashboard import Content, histograms, scalars
from safe_rlhf_panacea.show import pictures
from tests.show.evaluations import evaluation


def test_series():
    found = scalars(evaluation(7, 2.0))
    assert found["front/hypervolume"] == pytest.approx(1.0)
    # ⟨λ, J⟩ is 2 at both ends and 1 in the middle.
    assert found["front/inner_product"] == pytest.approx(5 / 3)
    assert found["front/dominated"] == 0
    assert found["front/spearman_helpful"] == found["front/spearman_harmless"] == pytest.approx(1)
    assert found["front_helpful/1.00_0.00"] == 2.0
    assert found["front_harmless/0.50_0.50"] == 1.0
    assert found["front_kl/0.00_1.00"] == 0.3
    assert found["singular/median_abs_sigma"] == pytest.approx(0.15)  # of 0, 0.1, 0.2, 0.3
    assert found["singular/max_abs_s"] == 0.5
    assert found["front/seconds"] == 1.5
    assert all(isinstance(value, float | int) for value in found.values())


def test_tables():
    both = [evaluation(0, 1.0), evaluation(7, 2.0)]
    tables = Content(both).tables
    points = tables["front/points"]
    assert points.columns[:5] == ["step", "λ helpful", "λ harmless", "helpful", "harmless"]
    assert points.rows[-1] == [7, 1.0, 0.0, 2.0, 0.0, 0.1, 0.1, 0.1, 0.01]
    assert [row[:2] for row in tables["front/indicators"].rows] == [[0, 0.25], [7, 1.0]]
    responses = tables["responses"]
    assert len(responses.rows) == 6
    assert responses.rows[0][2:4] == [0.0, 1.0]
    assert responses.columns[-3:] == ["helpful", "harmless", "log π/π_ref"]
    first = tables["singular/by_matrix"].rows[0]
    assert first == [7, "model.layers.0.q_proj", 0.1, pytest.approx(0.2), 0.3, 0.02]


def test_histograms_hold_the_single_values():
    found = histograms(evaluation(7, 2.0))
    assert found["values_helpful/1.00_0.00"] == [1.0, 3.0]
    assert found["singular/sigma"] == [0.1, -0.3, 0.0, 0.2]
    assert len(found) == 6 + 2


def test_every_picture_is_drawn_once_and_can_be_opened():
    content = Content([evaluation(0, 0.0).light(), evaluation(7, 2.0)])
    assert len(content.pictures) == 7
    for png in content.pictures.values():
        image = Image.open(io.BytesIO(png))
        assert min(image.size) > 250
        assert len(image.convert("L").getcolors(256)) > 10  # something is on it
    assert content.pictures["front/now"] is content.pictures["front/now"]


def test_a_run_without_rewards_prompts_or_draws():
    rich = evaluation(7, 2.0)
    poor = rich.having(
        result=rich.result.having(base=None, kind="accuracy"),
        responses=[{**entry, "rewards": []} for entry in rich.responses],
        drawn={"helpful": [0] * 10, "harmless": [0] * 10},
        base_distributions=[],
    )
    content = Content([poor])
    assert "preferences/drawn" not in content.pictures
    assert content.tables["responses"].columns[-2:] == ["response", "log π/π_ref"]


def test_objectives_are_shown_as_they_are_written():
    one = evaluation(1, 1.0)
    names = [r"$\frac{1$", "harmless"]
    shown = one.having(
        result=one.result.having(objectives=names, axis_labels=names, label=names[0]),
        drawn=dict(zip(names, one.drawn.values(), strict=True)),
    )
    for draw in (pictures.front_now, pictures.distributions, pictures.preferences_drawn):
        assert draw(shown).startswith(b"\x89PNG")
    assert pictures.indicators([shown, shown]).startswith(b"\x89PNG")
    metrics = [{"step": 1, "train/$a": 1.0}, {"step": 2, "train/$a": 2.0}]
    assert pictures.curves(metrics, {r"$\frac{1$": ["train/$a"]}).startswith(b"\x89PNG")
