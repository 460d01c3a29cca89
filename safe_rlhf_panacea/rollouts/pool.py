"""Many requests at once to several servers; one that is dead or slow is left out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import NoResponsesError
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rollouts.server import NoAnswerError, RefusedError, Server

AT_ONCE = 64  # requests to one server; vLLM queues what it cannot batch
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before each look whether a server is well again
PATIENCE = 2  # failures in a row of a server that says that it is well
TRIES = 6  # of one request, in all


@dataclass
class _Job:
    """A request, its answer to come, and how often it was tried in vain."""

    body: dict[str, Any]
    answer: Future[Any] = field(default_factory=Future)
    tries: int = 0


@dataclass
class _Member:
    """A server of a pool.

    Attributes:
        server: the server.
        failures: in a row; those that came together count once.
        looked: when it was last found to be well again.
        reason: why it is left out; None while it is not.
        lock: held while its state is found out.
        workers: threads that hand it requests.
    """

    server: Server
    failures: int = 0
    looked: float = 0.0
    reason: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    workers: int = 0


class Pool:
    """Hands each request to a server that is free, and to another one if that fails.

    Attributes:
        members: the servers, those left out among them.
    """

    def __init__(self, servers: Sequence[Server], waits: Sequence[float] | None = None) -> None:
        """Start nothing as yet.

        Args:
            servers: at least one.
            waits: seconds before each look at a server that has failed; default: ``WAITS``.
        """
        self.members = [_Member(server) for server in servers]
        self.waits = WAITS if waits is None else waits
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def submit(self, bodies: Sequence[dict[str, Any]]) -> list[Future[Any]]:
        """Ask for completions (``/v1/completions``).

        Returns:
            The answers to come, in the order of the requests. One raises ``NoResponsesError`` where
            every server was tried in vain.
        """
        jobs = [_Job(body) for body in bodies]
        for job in jobs:
            self._jobs.put(job)
        self._start(len(jobs))
        return [job.answer for job in jobs]

    def serving(self) -> list[Server]:
        """The servers that are not left out."""
        return [member.server for member in self.members if member.reason is None]

    def take_back(self, check: Callable[[Server], object]) -> None:
        """Look again at the servers that were left out, and take those back that pass ``check``."""
        for member in self.members:
            if member.reason is None or not member.server.is_well():
                continue
            try:
                check(member.server)
            except UserError:
                continue
            member.failures, member.reason = 0, None
            say(f"{member.server.url} is asked again")

    def _start(self, jobs: int) -> None:
        """Threads enough for so many jobs, each of which ends when none is left."""
        with self._lock:
            members = [member for member in self.members if member.reason is None]
            for member in members:
                wanted = min(AT_ONCE, -(-jobs // len(members)) + member.workers) - member.workers
                for _ in range(wanted):
                    member.workers += 1
                    threading.Thread(target=self._work, args=(member,), daemon=True).start()
        if not members:
            self._give_up()

    def _work(self, member: _Member) -> None:
        """Hand a server one request after the other until none is left or it is left out."""
        while member.reason is None:
            with self._lock:  # so that no job comes between the look and the end of the thread
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    member.workers -= 1
                    return
            began = time.monotonic()
            try:
                answer = member.server.post("/v1/completions", job.body)
            except (NoAnswerError, RefusedError) as error:
                self._failed(member, job, error, began)
            except Exception as error:  # nobody must wait for ever
                job.answer.set_exception(error)
            else:
                member.failures = 0
                job.answer.set_result(answer)
        with self._lock:
            member.workers -= 1
        if not self.serving():
            self._give_up()

    def _failed(self, member: _Member, job: _Job, error: UserError, began: float) -> None:
        """Put a request back, and find out whether its server is still one."""
        job.tries += 1
        with member.lock:
            if member.reason is None and began >= member.looked:
                member.failures += 1
                if self._recovers(member, error):
                    member.looked = time.monotonic()
                else:
                    member.reason = str(error)
                    say(f"left out: {error}")
        if job.tries >= TRIES:
            job.answer.set_exception(NoResponsesError(f"asked {TRIES} times in vain: {error}"))
            return
        self._jobs.put(job)
        self._start(1)

    def _recovers(self, member: _Member, error: UserError) -> bool:
        """Whether a server that has failed is well, perhaps after a while.

        One that says so and yet fails again and again, or is slow, is not. What is refused may be
        granted soon: a shared folder shows a new file late on some machines.
        """
        if member.failures > PATIENCE:
            return False
        for wait in self.waits:
            time.sleep(wait)
            if member.server.is_well():
                if isinstance(error, RefusedError):
                    time.sleep(self.waits[min(member.failures, len(self.waits) - 1)])
                return True
        return False

    def _give_up(self) -> None:
        """No server is left: every request that waits is told so."""
        reasons = "; ".join(str(member.reason) for member in self.members)
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            job.answer.set_exception(NoResponsesError(f"no rollout server is left: {reasons}"))
