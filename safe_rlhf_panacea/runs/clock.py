"""How long a run has trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingClock:
    """Seconds spent training: those before a resume count, those of evaluations do not.

    Attributes:
        before: seconds of the parts of the run before this one.
    """

    def __init__(self) -> None:
        """Begin now; ``start`` begins anew."""
        self.before = 0.0
        self.start()

    def start(self) -> None:
        """Training begins."""
        self._since = time.perf_counter()
        self._stopped_at: float | None = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Something else is done for a while."""
        self._stopped_at = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - self._stopped_at
            self._stopped_at = None

    @property
    def seconds(self) -> float:
        """So far."""
        now = time.perf_counter() if self._stopped_at is None else self._stopped_at
        return self.before + now - self._since
