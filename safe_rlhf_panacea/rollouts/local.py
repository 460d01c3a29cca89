"""A vLLM server that a run starts for itself and ends with it: ``--rollout_server auto``."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rollouts.checks import Needed
from safe_rlhf_panacea.rollouts.server import Server

PYTHON = "PANACEA_VLLM_PYTHON"  # the variable that names the Python of vLLM's environment
LOG = "vllm.log"
MOST = 900.0  # seconds in which a server must be up: it loads the model and may compile
# Becomes the program that it is given, which Linux ends (SIGTERM) when the run ends, even if that
# is killed: 1 is PR_SET_PDEATHSIG.
BOUND = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass
class LocalServer:
    """A server that this process has started; it ends with this process at the latest.

    Attributes:
        url: its address.
        process: of its API.
        cache: where it makes LoRAs.
    """

    url: str
    process: subprocess.Popen[bytes]
    cache: Path

    def __post_init__(self) -> None:
        atexit.register(self.end)

    def end(self) -> None:
        """Ask it to end, and do not wait for ever."""
        atexit.unregister(self.end)
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        shutil.rmtree(self.cache, ignore_errors=True)


def vllm_python() -> str:
    """The Python that has vLLM: the variable's, this one, or that of ``make vllm``.

    Raises:
        UserError: none of them has.
    """
    if named := os.environ.get(PYTHON):
        if not os.access(named, os.X_OK):
            raise UserError(f"{PYTHON}={named} is no program")
        return str(Path(named).absolute())
    if find_spec("vllm") is not None:
        return sys.executable
    made = Path(".venv-vllm/bin/python")
    if made.exists():
        return str(made.absolute())
    raise UserError(
        f"--rollout_server auto finds no vLLM: make vllm makes an environment for it, and {PYTHON} "
        "names the Python of another one"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    needed: Needed, folder: Path, dtype: str, flags: Sequence[str] = ()
) -> LocalServer:
    """Start a server on loopback and wait until it is up.

    Args:
        needed: what it must run.
        folder: of this run; its log and LoRAs lie there.
        dtype: of the weights, as vLLM names it.
        flags: of vLLM, behind this package's own.

    Raises:
        UserError: it ends, or is not up in time; its log is named.
    """
    port, log, cache = _free_port(), folder / LOG, folder / "loras"
    shutil.rmtree(cache, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", needed.base),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype),
        *needed.flags(),
        *flags,
    ]
    # Those of a launcher would have vLLM join the training's process group.
    launcher = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in launcher}
    environment |= needed.variables(str(cache))
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", BOUND, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    server = LocalServer(f"http://127.0.0.1:{port}", process, cache)
    say(f"starting vLLM (process {process.pid}, its log is {log}): {shlex.join(command)}")
    _wait(server, log)
    return server


def _wait(server: LocalServer, log: Path) -> None:
    """Return once a server is up."""
    process, end = server.process, time.monotonic() + MOST
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UserError(f"vLLM has ended with code {process.returncode}: {log} says why")
        if Server(server.url).is_well():
            return
        time.sleep(1)
    raise UserError(f"vLLM is not up after {MOST:g} seconds: {log} says why")
