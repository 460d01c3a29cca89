"""The quickstart's second process; both have one thread, however many cores there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from safe_rlhf_panacea.base.threads import one_thread
from safe_rlhf_panacea.printing import quiet_libraries

THREADS = "OMP_NUM_THREADS"  # which a process reads when it begins, and records


def _begin() -> None:
    """Set up the second process: it prints nothing but errors."""
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    quiet_libraries()


def _end_with_the_first() -> None:
    """End this process with the first one: while it waits for work it would not notice."""
    first = multiprocessing.parent_process()
    assert first is not None  # this one was started by it
    first.join()
    os._exit(1)


@contextmanager
def second_process() -> Iterator[Executor]:
    """Give an executor with one process; both processes have one thread meanwhile.

    Models this small gain little by a second thread, and a sum over several threads is another
    number than one over one. An error of what runs there is raised where its result is asked for.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
    others = multiprocessing.active_children()
    with one_thread(), _environment(THREADS, "1"):
        try:
            _start(executor)
            yield executor
        except BaseException:  # an interruption too: nobody waits for the rest
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            executor.shutdown()


def _start(executor: Executor) -> None:
    """Start the executor's process now, with interruptions ignored: they are for this process."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        executor.submit(int)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
