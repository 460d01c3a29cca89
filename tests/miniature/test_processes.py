"""The quickstart's second process: one thread each, and its errors are this one's."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from safe_rlhf_panacea.errors import fail
from safe_rlhf_panacea.miniature.stages import second_process

KILLED = """
import os, signal, time
from safe_rlhf_panacea.miniature.stages import second_process

if __name__ == "__main__":
    with second_process() as beside:
        beside.submit(int).result()
        beside.submit(time.sleep, 300)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_both_have_one_thread_and_what_is_refused_there_ends_this_program(capfd):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with pytest.raises(SystemExit) as stop, second_process() as beside:
        assert beside.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 1
        beside.submit(print, "of no interest").result()
        beside.submit(fail, ValueError("this will not do")).result()
    assert (stop.value.code, torch.get_num_threads()) == (2, 3)
    torch.set_num_threads(before)
    printed = capfd.readouterr()
    assert printed.err.splitlines()[-1] == "error: this will not do"
    assert "interest" not in printed.out


def test_nobody_waits_for_it_after_an_interruption():
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), second_process() as beside:
        beside.submit(int).result()  # it has begun
        beside.submit(time.sleep, 300)
        raise KeyboardInterrupt
    assert time.monotonic() - start < 120


def test_it_ends_with_the_first_however_that_ends(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    # The pipe is at its end when nobody holds it any more: an orphan would for five minutes.
    done = subprocess.run(
        [sys.executable, script], stderr=subprocess.PIPE, timeout=120, check=False
    )
    assert done.returncode == -9
