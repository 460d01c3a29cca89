"""The quickstart's two processes, of one thread each: its numbers do not depend on the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import torch

from safe_rlhf_panacea.base.distributed import name_cpu_accelerator


def quiet_libraries() -> None:
    """Leave the terminal to the program's own lines."""
    from transformers.utils.logging import disable_progress_bar

    name_cpu_accelerator()
    disable_progress_bar()
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")


def _begin() -> None:
    """What the second process does first; its errors alone are seen, and the first ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    torch.set_num_threads(1)
    quiet_libraries()


@contextmanager
def second_process() -> Iterator[Executor]:
    """A process for what need not wait for this one, which has one thread meanwhile too.

    Models this small gain little by a second thread, and a sum over several threads is another
    number than one over one. An error of what runs there is raised where its result is asked for.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
    try:
        yield executor
    except BaseException:  # an interruption too: nobody waits for the rest
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        executor.shutdown()
        torch.set_num_threads(threads)
