"""The thread that answers: one loop over the batch, jobs in, pieces of text out."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
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
FAILED = Piece(error=(500, "the model failed on this request"))
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
        self._active: list[Job] = []  # those of the batch, and those whose prompts are being read
        self._changed = threading.Condition()
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Answers under way."""
        return len(self._active)

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
            for job in () if finish else (*self._waiting, *self._active):
                job.cancelled = True
            self._changed.notify()
        self._thread.join()

    # -- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode(), self.batch.adapter.state.during(reuses=True):
                while self._has_work():
                    self._drop()
                    if joining := self._next():
                        self._forward(joining, partial(self.batch.join, joining))
                    if self.batch.jobs:
                        self._forward(list(self.batch.jobs), self.batch.step)
        except Exception:  # a GPU that is lost, say: those who wait are told
            traceback.print_exc()
        finally:
            with self._changed:
                self._ended = True
                left = [*self._waiting, *self._active]
            for job in left:
                job.deliver(Piece(error=(503, ENDED)))

    def _has_work(self) -> bool:
        """Wait for jobs; False once the engine is closed and none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._active)
            return bool(self._waiting or self._active)

    def _drop(self) -> None:
        """Let go of jobs that nobody waits for, or that have taken too long."""
        limits = self.limits
        too_long = Piece(error=(504, f"not finished within {limits.timeout:g} seconds"))
        no_row = Piece(error=(503, f"no row became free within {limits.max_wait:g} seconds"))
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
            for job in waiting:
                if job.age > min(limits.max_wait, limits.timeout):
                    self._end(job, no_row if job.age > limits.max_wait else too_long)
                elif not job.cancelled:
                    self._waiting.append(job)
        for job in list(self._active):
            late = job.age > limits.timeout
            if late or job.cancelled:
                self._end(job, too_long if late else Piece(finish="cancelled"))

    def _next(self) -> list[Job]:
        """Jobs whose prompts are read now: rows, and the time of the others, set bounds."""
        jobs: list[Job] = []
        width = 0
        with self._changed:
            while self._waiting and self.rows + len(jobs) < self.limits.max_rows:
                width = max(width, len(self._waiting[0].prompt))
                if jobs and width * (len(jobs) + 1) > PREFILL_TOKENS:
                    break
                jobs.append(self._waiting.popleft())
            self._active += jobs
        return jobs

    def _forward(self, jobs: Sequence[Job], run: Callable[[], list[int]]) -> None:
        """A token for each job; what goes wrong ends these answers, not the loop."""
        try:
            tokens = run()
        except Exception:
            traceback.print_exc()
            if jobs[0] in self.batch.jobs:  # else they were to join: the rows before them go on
                self.batch.clear()
            for job in jobs:
                self._end(job, FAILED)
            return
        for job, token in zip(jobs, tokens, strict=True):
            if self.metrics is not None and not job.tokens:
                self.metrics.prompt_tokens.inc(len(job.prompt))
                self.metrics.first_token.observe(job.age)
            piece: Piece | None = Piece(error=(500, OVERFLOW))
            try:
                if token != NOT_FINITE:
                    piece = job.take(token)
            except Exception:
                traceback.print_exc()
                piece = FAILED
            if piece is not None and piece.is_last:
                self._end(job, piece)
            elif piece is not None:
                job.deliver(piece)

    def _end(self, job: Job, piece: Piece) -> None:
        """Free the row of a job, if it has one, and deliver its last piece."""
        if job in self.batch.jobs:
            self.batch.leave(job)
        if job in self._active:
            self._active.remove(job)
        if self.metrics is not None:
            self.metrics.generated_tokens.inc(job.tokens)
            self.metrics.answer.observe(job.age)
        job.deliver(piece)
