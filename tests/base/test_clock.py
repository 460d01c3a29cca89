"""Training time, with a clock that is turned by hand."""

from __future__ import annotations

from safe_rlhf_panacea.runs import checkpoint as module
from safe_rlhf_panacea.runs.checkpoint import TrainingClock


def test_stops_for_evaluations_and_goes_on_after_a_resume(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    clock = TrainingClock()
    now[0] = 107.0  # loading
    clock.start()
    now[0] = 110.0
    with clock.stopped():
        now[0] = 150.0
        assert clock.seconds == 3.0
    now[0] = 152.0
    assert clock.seconds == 5.0
    clock.before = 1000.0
    assert clock.seconds == 1005.0
