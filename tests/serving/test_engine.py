"""The engine's thread, while prompts are read and when it ends."""

from __future__ import annotations

import queue
import threading

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.serving.engine import OVERFLOW, Engine, Limits
from safe_rlhf_panacea.serving.protocol import ApiError
from tests.serving.test_batch import loaded, make_job, overflowing

LIMITS = Limits(max_rows=2, max_waiting=1, max_length=60)


@pytest.fixture(scope="module")
def model(adapter):
    return loaded(adapter)


@pytest.fixture
def engine(model):
    engine = Engine(model, LIMITS)
    yield engine
    engine.close(finish=False)


@pytest.fixture
def reading(engine, monkeypatch):
    """Prompts are read for as long as a test wants; set when they are, and to set."""
    join, begun, enough = engine.batch.join, threading.Event(), threading.Event()

    def joined(jobs):
        begun.set()
        assert enough.wait(20)
        return join(jobs)

    monkeypatch.setattr(engine.batch, "join", joined)
    yield begun, enough
    enough.set()


def asked(model, tokens=40, preference=(0.5, 0.5)):
    """A job, and the queue of its pieces."""
    job = make_job(model, [9, 10, 11], torch.tensor(preference))
    pieces = queue.SimpleQueue()
    job.max_new_tokens, job.deliver = tokens, pieces.put
    return job, pieces


def last(pieces):
    while not (piece := pieces.get(timeout=20)).is_last:
        pass
    return piece


@pytest.mark.parametrize("finish", [True, False])
def test_prompts_that_are_being_read_take_their_rows(engine, reading, model, finish):
    """The engine is closed meanwhile: what it has is finished, or dropped."""
    begun, enough = reading
    jobs = [asked(model, 5) for _ in range(4)]
    engine.submit([job for job, _ in jobs[:2]])
    assert begun.wait(20)
    assert engine.rows == 2
    engine.submit([jobs[2][0]])
    with pytest.raises(ApiError, match="too many requests are waiting"):
        engine.submit([jobs[3][0]])
    closing = threading.Thread(target=engine.close, kwargs={"finish": finish})
    closing.start()
    while not engine._closing:
        pass
    enough.set()
    closing.join(20)
    assert not closing.is_alive()
    if finish:
        assert [last(pieces).finish for _, pieces in jobs[:3]] == ["length"] * 3
    else:
        assert [last(pieces).finish for _, pieces in jobs[:2]] == ["cancelled"] * 2
        assert all(job.tokens < 3 for job, _ in jobs)


@pytest.mark.parametrize("broken", ["leave", "clear"])
def test_a_thread_that_dies_tells_those_who_wait(engine, model, monkeypatch, capsys, broken):
    def fails(*_):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(engine.batch, "step", fails if broken == "clear" else engine.batch.step)
    monkeypatch.setattr(engine.batch, broken, fails)
    jobs = [asked(model, 3) for _ in range(3)]
    engine.submit([job for job, _ in jobs])
    errors = [last(pieces).error for _, pieces in jobs]
    assert errors[2] == (503, "the engine has ended")
    assert {status for status, _ in errors} <= {500, 503}
    engine._thread.join(20)
    assert not engine.is_alive
    with pytest.raises(ApiError, match="the engine has ended"):
        engine.submit([asked(model)[0]])
    assert "device-side assert" in capsys.readouterr().err


def test_logits_that_are_not_finite_end_their_answer_only(engine, model):
    with overflowing(model):
        jobs = [asked(model, 5, preference) for preference in ((0.0, 1.0), (1.0, 0.0))]
        engine.submit([job for job, _ in jobs])
        good, bad = (last(pieces) for _, pieces in jobs)
        with pytest.raises(UserError, match="the model's logits are not finite: its activations"):
            model.respond("hello", "1,0", max_new_tokens=3, temperature=0)
    assert good.finish == "length"
    assert bad.error == (500, OVERFLOW)
    assert engine.is_alive
