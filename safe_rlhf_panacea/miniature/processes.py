"""The quickstart's two processes, of one thread each, as many cores as there may be."""

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
    """What the second process does first; its errors alone are printed."""
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    quiet_libraries()


def _end_with_the_first() -> None:
    """However that ends: a process that waits for work does not notice by itself."""
    first = multiprocessing.parent_process()
    assert first is not None  # this one was started by it
    first.join()
    os._exit(1)


@contextmanager
def second_process() -> Iterator[Executor]:
    """A process for what need not wait for this one, which has one thread meanwhile too.

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
    """Start its process now, which leaves interruptions to this one from its first moment on."""
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
