"""Progress bars count on the main process and are silent elsewhere."""

from __future__ import annotations

from safe_rlhf_panacea.runs import logger
from safe_rlhf_panacea.runs.logger import progress_bar


def test_a_bar_over_an_iterable_gives_its_items(capsys):
    assert list(progress_bar(range(3), desc="Counting")) == [0, 1, 2]
    shown = capsys.readouterr()
    assert "Counting" in shown.err and "3/3" in shown.err and shown.out == ""


def test_a_bar_with_a_total(capsys):
    with progress_bar(total=4, desc="Training") as bar:
        bar.update(2)
        bar.set_postfix_str("loss 0.5")
    assert "2/4" in capsys.readouterr().err


def test_nothing_is_shown_when_disabled_or_on_other_processes(capsys, monkeypatch):
    assert list(progress_bar(range(2), disable=True)) == [0, 1]
    monkeypatch.setattr(logger, "is_main_process", lambda: False)
    assert list(progress_bar(range(2))) == [0, 1]
    assert capsys.readouterr().err == ""
