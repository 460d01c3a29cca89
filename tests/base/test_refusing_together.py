"""What one process refuses all of them refuse, at once and in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea.distributed import refusing_together
from safe_rlhf_panacea.errors import SharedError, UserError, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
# One block that all pass, one that the second process refuses, one that the first one does: it
# alone looks at the folder, and the other used to wait for it.
BLOCKS = """
import atexit
import sys
import torch.distributed as dist
from safe_rlhf_panacea.base import setup
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.distributed import leave_at_exit, refusing_together
from safe_rlhf_panacea.errors import SharedError, UserError, one_line_errors

def check_left():  # registered first, so called last
    if dist.is_initialized():
        print("the process group outlives the program", file=sys.stderr)

@one_line_errors
def main():
    atexit.register(check_left)
    dist.init_process_group("gloo")
    leave_at_exit()
    with refusing_together():
        pass
    try:
        with refusing_together():
            if dist.get_rank() == 1:
                raise UserError("this will not do")
    except SharedError as error:
        assert str(error) == "this will not do"
    else:
        raise AssertionError
    setup.init_distributed = lambda local_rank: None
    setup.prepare_run(TrainConfig(output_dir=sys.argv[1]))

main()
"""


def run_two(*command):
    """The exit codes of two processes and what they said together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=60)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], "".join(said)


def test_all_processes_end_with_one_line(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    codes, said = run_two("-c", BLOCKS, str(tmp_path))
    assert codes == [2, 2], said
    assert said.startswith(f"error: {tmp_path} already holds a run")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("rank", "said"), [("0", "error: no\n"), ("1", "")])
@pytest.mark.parametrize("error", [UserError, SharedError])
def test_what_all_processes_refuse_one_tells(rank, said, error, monkeypatch, capsys):
    def refuse():
        raise error("no")

    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: error is SharedError)
    with pytest.raises(SystemExit) as stop:
        one_line_errors(refuse)()
    assert (stop.value.code, capsys.readouterr().err) == (2, said)


def test_what_one_process_meets_it_tells_itself(monkeypatch, capsys):
    """Joined processes that did not agree on an error: the others do not know of it."""

    def refuse():
        raise UserError("no")

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(SystemExit):
        one_line_errors(refuse)()
    assert capsys.readouterr().err == "error: no\n"


def test_a_process_on_its_own_keeps_its_error():
    error = UserError("no")
    with pytest.raises(UserError) as caught, refusing_together():
        raise error
    assert caught.value is error
    with pytest.raises(KeyError), refusing_together():
        raise KeyError
