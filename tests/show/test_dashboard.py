"""What is shown of hand-made evaluations, and one call that brings all places up to date."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image

from safe_rlhf_panacea import dashboard as program
from safe_rlhf_panacea.dashboard import Content, Dashboard, histograms, main, scalars
from safe_rlhf_panacea.fronts.evaluations import append_evaluation
from safe_rlhf_panacea.fronts.indicators import INDICATORS, MEANINGS
from safe_rlhf_panacea.show import pictures
from safe_rlhf_panacea.show.pages import curve_groups
from safe_rlhf_panacea.show.plots import picture_bytes
from tests.eval.evaluations import evaluation


def test_series_and_histograms():
    found = scalars(evaluation(7, 2.0))
    expected = {
        "front/hypervolume": 1.0,
        "front/inner_product": 5 / 3,  # ⟨λ, J⟩ is 2 at both ends and 1 in the middle
        "front/dominated": 0,
        "front/spearman_helpful": 1,
        "front/spearman_harmless": 1,
        "front_helpful/1.00_0.00": 2.0,
        "front_harmless/0.50_0.50": 1.0,
        "front_kl/0.00_1.00": 0.3,
        "singular/median_abs_sigma": 0.15,  # of 0, 0.1, 0.2, 0.3
        "singular/max_abs_s": 0.5,
        "front/seconds": 1.5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert all(isinstance(value, float | int) for value in found.values())
    single = histograms(evaluation(7, 2.0))
    assert single["values_helpful/1.00_0.00"] == [1.0, 3.0]
    assert single["singular/sigma"] == [0.1, -0.3, 0.0, 0.2]
    assert len(single) == 6 + 2


def test_tables():
    tables = Content([evaluation(0, 1.0), evaluation(7, 2.0)]).tables
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
    draws = (pictures.front_now, pictures.distributions, pictures.preferences_drawn)
    figures = [pictures.indicators([shown, shown]), *(draw(shown) for draw in draws)]
    metrics = [{"step": 1, "train/$a": 1.0}, {"step": 2, "train/$a": 2.0}]
    figures.append(pictures.curves(metrics, {r"$\frac{1$": ["train/$a"]}))
    for figure in figures:
        assert picture_bytes(figure).startswith(b"\x89PNG")


class Log:
    """A logger without wandb and TensorBoard."""

    wandb = writer = None

    def __init__(self):
        self.lines = []

    def print(self, line):
        self.lines.append(line)


def test_files(tmp_path, monkeypatch):
    append_evaluation(tmp_path, evaluation(0, 1.0))
    dashboard = Dashboard(tmp_path, Log())  # it goes on where the folder ends
    with monkeypatch.context() as undrawn:
        undrawn.setattr(program, "render", lambda *_, **__: "")
        series = dashboard.publish(evaluation(3, 1.0))
    assert series["front/hypervolume"] == pytest.approx(0.25)
    dashboard.publish(evaluation(5, 2.0))
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3, 5]
    assert [one.step for one in dashboard.evaluations] == [0, 3, 5]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == evaluation(5, 2.0).result.to_json()
    page = (tmp_path / "report.html").read_text()
    assert 'http-equiv="refresh"' in page
    assert page.count("data:image/png;base64,") == 7
    assert "&lt;script&gt;" in page and "<script" not in page
    assert "width=device-width" in page
    order = ["Answers at step 5", "The front now", "The growing front", "Indicators", "The run"]
    assert sorted(order, key=lambda part: page.index(f"<h2>{part}")) == order
    for label in (*INDICATORS.values(), "Spearman"):
        assert page.count(f"<li><strong>{label.rstrip(' ↑↓')}</strong>: ") == 1
    assert all("\n" not in text and len(text) < 90 for text in MEANINGS.values())
    first = page.index("<details open><summary>&lt;b&gt;one&lt;/b&gt;</summary>")
    assert first < page.index("<img")
    assert page.count("<table>") == page.count('class="wide"') + page.count('class="wide answers"')
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)  # nothing from elsewhere
    dashboard.finish()
    assert "refresh" not in (tmp_path / "report.html").read_text()


def broken(content):
    raise OSError("disk full")


@pytest.mark.usefixtures("no_page")
def test_trouble_is_raised_at_the_start_and_told_later(tmp_path):
    log = Log()
    dashboard = Dashboard(tmp_path, log)
    files = dashboard.places["files"]
    dashboard.places = {"wandb": broken}
    with pytest.raises(OSError, match="disk full"):
        dashboard.publish(evaluation(0, 1.0))
    dashboard.places = {"files": files}
    dashboard.publish(evaluation(1, 1.0))
    dashboard.places = {"wandb": broken, "files": files}
    assert dashboard.publish(evaluation(2, 1.0))
    assert log.lines == ["dashboard: wandb failed and is left out: OSError('disk full')"]
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 2


def test_the_page_can_be_drawn_anew(tmp_path, capsys):
    for step in (0, 5):
        append_evaluation(tmp_path, evaluation(step, 1.0 + step))
    metrics = [{"step": i, "train/reward": i / 2, "train/raw_reward_a": 1.0} for i in range(4)]
    text = "".join(json.dumps(line) + "\n" for line in metrics)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "train/rew')
    main([str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    assert page.count("data:image/png;base64,") == 8
    sparse = [{"step": 0, "train/loss_a": 1.0}, {"step": 1, "train/loss_b": 1.0}]
    assert list(curve_groups(sparse).values()) == [["train/loss_a", "train/loss_b"]]
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--output", str(tmp_path / "report.html")])
    assert "exists: choose another file" in capsys.readouterr().err
