"""The thread that answers: one loop over the batch, jobs in, pieces of text out."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.serving.batch import NOT_FINITE, Batch, check_model
from safe_rlhf_panacea.serving.jobs import Job, Piece
from safe_rlhf_panacea.serving.protocol import ApiError

if TYPE_CHECKING:  # it needs the server's extra, which a chat in the terminal does without
    from safe_rlhf_panacea.serving.guard import Metrics

ENDED = "the engine has ended"
OVERFLOW = "the model's logits are not finite: its activations overflow on this request"
PREFILL_TOKENS = 4096  # prompts read at once, padding included: the others wait for them


@dataclass(frozen=True)
class Limits:
    """Bounds of the engine."""

    max_rows: int = 32  # answers at a time
    max_waiting: int = 64  # jobs that wait for a row
    max_wait: float = 60.0  # seconds that a job may wait
    timeout: float = 300.0  # seconds that an answer may take, waiting included
    max_length: int = 2048  # tokens of prompt and answer


class Engine:
    """Answers jobs in a thread of its own until it is closed; other threads may call all of this.

    Raises:
        UserError: the model cannot be served in batches.
    """

    def __init__(self, model: PanaceaModel, limits: Limits, metrics: Metrics | None = None) -> None:
        check_model(model.model, limits.max_length)
        self.limits, self.metrics = limits, metrics
        if metrics is not None:
            metrics.rows.set_function(lambda: self.rows)
            metrics.waiting.set_function(lambda: self.waiting)
        pad_id, bounds = model.tokenizer.pad_token_id, (limits.max_rows, limits.max_length)
        self.batch = Batch(model.model, model.adapter, pad_id, *bounds)
        self._waiting: deque[Job] = deque()
        self._joining: list[Job] = []  # their prompts are being read
        self._changed = threading.Condition()
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Answers under way."""
        return len({*self.batch.jobs, *self._joining})  # for a moment a job is in both

    @property
    def waiting(self) -> int:
        """Jobs that wait for a row."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Ask for answers, all of them or none.

        Raises:
            ApiError: there is no room for them (429), or the thread is gone (503).
        """
        with self._changed:
            if self._ended:
                raise ApiError(503, ENDED)
            room = self.limits.max_rows + self.limits.max_waiting - self.rows - self.waiting
            if len(jobs) > room:
                message = "too many requests are waiting: try again later"
                raise ApiError(429, message, code="too_many_requests")
            self._waiting += jobs
            self._changed.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Nobody waits for these any more: their rows are free from the next step on."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._changed.notify()

    def close(self, *, finish: bool = True) -> None:
        """Finish what runs and what waits, or drop it, and end the thread."""
        with self._changed:
            self._closing = True
            for job in () if finish else self._all():
                job.cancelled = True
            self._changed.notify()
        self._thread.join()

    # -- the thread -------------------------------------------------------------------

    def _all(self) -> list[Job]:
        return [*self._waiting, *{*self.batch.jobs, *self._joining}]

    def _run(self) -> None:
        try:
            with torch.inference_mode(), self.batch.adapter.state.during(reuses=True):
                while self._has_work():
                    self._drop()
                    self._join()
                    self._step()
        except Exception:  # a GPU that is lost, say: those who wait are told
            traceback.print_exc()
        finally:
            with self._changed:
                self._ended = True
                left = self._all()
            for job in left:
                job.deliver(Piece(error=(503, ENDED)))

    def _has_work(self) -> bool:
        """Wait for jobs; False once the engine is closed and none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self.batch.jobs)
            return bool(self._waiting or self.batch.jobs)

    def _drop(self) -> None:
        """Let go of jobs that nobody waits for, or that have taken too long."""
        limits = self.limits
        no_row = Piece(error=(503, f"no row became free within {limits.max_wait:g} seconds"))
        too_long = Piece(error=(504, f"not finished within {limits.timeout:g} seconds"))
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
            for job in waiting:
                if job.age > limits.max_wait:
                    self._end(job, no_row)
                elif job.age > limits.timeout:
                    self._end(job, too_long)
                elif not job.cancelled:
                    self._waiting.append(job)
        for job in list(self.batch.jobs):
            late = job.age > limits.timeout
            if late or job.cancelled:
                self.batch.leave(job)
                self._end(job, too_long if late else Piece(finish="cancelled"))

    def _join(self) -> None:
        """Read the prompts of jobs that wait: rows, and the time of the others, set bounds."""
        jobs: list[Job] = []
        width = 0
        with self._changed:
            while self._waiting and len(self.batch.jobs) + len(jobs) < self.limits.max_rows:
                width = max(width, len(self._waiting[0].prompt))
                if jobs and width * (len(jobs) + 1) > PREFILL_TOKENS:
                    break
                jobs.append(self._waiting.popleft())
            self._joining = jobs
        if not jobs:
            return
        try:
            tokens = self.batch.join(jobs)
        except Exception:
            return self._fail(jobs)  # the rows before them go on
        finally:
            self._joining = []
        for job, token in zip(jobs, tokens, strict=True):
            if self.metrics is not None:
                self.metrics.prompt_tokens.inc(len(job.prompt))
                self.metrics.first_token.observe(job.age)
            self._hand_on(job, token)

    def _step(self) -> None:
        jobs = list(self.batch.jobs)
        if not jobs:
            return
        try:
            tokens = self.batch.step()
        except Exception:
            self._fail(jobs)
            return self.batch.clear()
        for job, token in zip(jobs, tokens, strict=True):
            self._hand_on(job, token)

    def _hand_on(self, job: Job, token: int) -> None:
        """Deliver what a token adds to an answer, and free its row where that ends."""
        if token == NOT_FINITE:
            self.batch.leave(job)
            return self._end(job, Piece(error=(500, OVERFLOW)))
        try:
            piece = job.take(token)
        except Exception:
            self.batch.leave(job)
            return self._fail([job])
        if piece is None:
            return
        if piece.is_last:
            self.batch.leave(job)
            self._end(job, piece)
        else:
            job.deliver(piece)

    def _fail(self, jobs: Sequence[Job]) -> None:
        """What goes wrong in the model ends these answers, not the loop."""
        traceback.print_exc()
        for job in jobs:
            self._end(job, Piece(error=(500, "the model failed on this request")))

    def _end(self, job: Job, piece: Piece) -> None:
        if self.metrics is not None:
            self.metrics.generated_tokens.inc(job.tokens)
            self.metrics.answer.observe(job.age)
        job.deliver(piece)
