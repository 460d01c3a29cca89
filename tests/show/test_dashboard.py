"""One call brings files, wandb and TensorBoard up to date."""

from __future__ import annotations

import json
import re

import pytest

from safe_rlhf_panacea import dashboard as writers
from safe_rlhf_panacea.dashboard import Dashboard, main
from safe_rlhf_panacea.fronts.evaluations import append_evaluation
from safe_rlhf_panacea.fronts.indicators import INDICATORS, MEANINGS
from safe_rlhf_panacea.show.pages import curve_groups
from tests.show.evaluations import evaluation


class Log:
    """A logger without wandb and TensorBoard."""

    wandb = writer = None

    def __init__(self):
        self.lines = []

    def print(self, line):
        self.lines.append(line)


def test_files(tmp_path, monkeypatch):
    dashboard = Dashboard(tmp_path, Log())
    with monkeypatch.context() as undrawn:
        undrawn.setattr(writers, "render", lambda *_, **__: "")
        series = dashboard.publish(evaluation(0, 1.0))
    assert series["front/hypervolume"] == pytest.approx(0.25)
    dashboard.publish(evaluation(5, 2.0))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == evaluation(5, 2.0).result.to_json()
    page = (tmp_path / "report.html").read_text()
    assert 'http-equiv="refresh"' in page
    assert page.count("data:image/png;base64,") == 7
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "width=device-width" in page
    order = ["Answers at step 5", "The front now", "The growing front", "Indicators", "The run"]
    assert sorted(order, key=lambda part: page.index(f"<h2>{part}")) == order
    for label in (*INDICATORS.values(), "Spearman"):
        assert page.count(f"<li><strong>{label.rstrip(' ↑↓')}</strong>: ") == 1
    assert all("\n" not in text and len(text) < 90 for text in MEANINGS.values())
    assert page.index("<details open><summary>&lt;b&gt;one&lt;/b&gt;</summary>") < page.index(
        "<img"
    )
    assert page.count("<table>") == page.count('class="wide"') + page.count('class="wide answers"')
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)  # nothing from elsewhere
    dashboard.finish()
    assert "refresh" not in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("no_page")
def test_goes_on_where_the_folder_ends(tmp_path):
    append_evaluation(tmp_path, evaluation(0, 1.0))
    dashboard = Dashboard(tmp_path, Log())
    dashboard.publish(evaluation(5, 2.0))
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 5]
    assert [one.step for one in dashboard.evaluations] == [0, 5]


class Broken:
    """A writer on a full disk."""

    def write(self, content):
        raise OSError("disk full")


@pytest.mark.usefixtures("no_page")
def test_trouble_is_raised_at_the_start_and_told_later(tmp_path):
    log = Log()
    dashboard = Dashboard(tmp_path, log)
    files = dashboard.writers[0]
    dashboard.writers = [Broken()]
    with pytest.raises(OSError, match="disk full"):
        dashboard.publish(evaluation(0, 1.0))
    dashboard.writers = [files]
    dashboard.publish(evaluation(1, 1.0))
    dashboard.writers = [Broken(), files]
    assert dashboard.publish(evaluation(2, 1.0))
    assert log.lines == ["dashboard: Broken failed and is left out: OSError('disk full')"]
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
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    assert "train with --need_eval" in capsys.readouterr().err
