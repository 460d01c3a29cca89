"""A Python that has torch, transformers and the package imported before it starts.

Tests that need processes of their own would else spend most of their time on imports. One server
per test process imports them once; ``warm_python()`` is the path of an executable that takes a
command line as ``python`` does and has a fork of the server run it, in the caller's folder and
environment. What libraries read from the environment on import is the server's.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "safe_rlhf_panacea.algorithms.dpo.trainer",
    "safe_rlhf_panacea.algorithms.ppo.trainer",
    "safe_rlhf_panacea.base.supervised",
    "safe_rlhf_panacea.evaluation.__main__",
    "safe_rlhf_panacea.miniature.stages",
    "torch.distributed.launcher.api",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
    "deepspeed",
    "datasets",  # not wandb: a fork that ends would take away its folder for media
)
CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = json.dumps([sys.argv[0], sys.argv[1:], os.getcwd(), dict(os.environ)])
socket.send_fds(server, [request.encode()], [0, 1, 2])
status = server.recv(16)
sys.exit(int(status) if status else 1)
"""


@functools.cache
def warm_python() -> str:
    """The executable; its server starts with the first call and ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="warm-python-")
    address, client = f"{folder.name}/socket", Path(folder.name, "python")
    client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_python", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )

    def stop():
        server.stdin.close()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    # Libraries may print while they are imported.
    assert any(line == b"ready\n" for line in server.stdout), "the server did not start"
    return str(client)


def serve(address):
    """Fork at every call; return its connection in the fork, None when the tests are over."""
    for name in PRELOADED:
        import_module(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    gc.freeze()  # what is shared with the forks stays so
    print("ready", flush=True)
    forks = set()
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        forks -= {fork for fork in forks if os.waitpid(fork, os.WNOHANG)[0]}
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        fork = os.fork()
        if not fork:
            listener.close()
            return connection
        forks.add(fork)
        connection.close()


def wait_for(child, connection):
    """Tell the caller how the child ended; end it if the caller is gone."""
    while True:
        gone, _, _ = select.select([connection], [], [], 0.05)
        if gone:
            os.kill(child, signal.SIGKILL)
        pid, status = os.waitpid(child, 0 if gone else os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            if not gone:
                connection.send(str(code if code >= 0 else 128 - code).encode())
            return


def run(client, arguments, folder, environment):
    """What ``python`` does with its command line."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    sys.executable = client
    added = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder, *(path for path in added if path), *sys.path[1:]]
    kind, *rest = [argument for argument in arguments if argument != "-u"]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        sys.path[0] = os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name="__main__")


def status_of(function, *arguments):
    """What the process ends with; it ends as Python does, but leaves its memory to the system."""
    status = 0
    try:
        function(*arguments)
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status or 0


def main():
    connection = serve(sys.argv[1])
    if connection is None:
        return
    request, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        wait_for(child, connection)
        os._exit(0)
    connection.close()
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os._exit(status_of(run, *json.loads(request)))


if __name__ == "__main__":
    main()
