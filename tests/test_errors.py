"""What a program tells in one line, and what keeps its traceback."""

from __future__ import annotations

import errno
import io
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.io import (
    append_line,
    atomic_folder,
    atomic_path,
    atomic_write_text,
    naming,
    read_json,
)
from safe_rlhf_panacea.printing import say
from tests.bad_command_lines import GOOD

ROOT = Path(__file__).resolve().parents[1]
FULL = os.strerror(errno.ENOSPC)


@pytest.fixture
def told(capsys):
    """Run a body as a program does; its exit code and what it said."""

    def run(body):
        with pytest.raises(SystemExit) as stop:
            one_line_errors(body)()
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def little_room():
    """No file of this process may be longer than 4 KiB; SIGXFSZ is ignored, as Python does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def write_safetensors(path):
    with atomic_path(path) as temporary:
        save_file({"a": torch.zeros(5000)}, temporary)


def write_folder(path):
    with atomic_folder(path) as new:
        save_file({"a": torch.zeros(5000)}, new / "model.safetensors")


def full(*names):
    raise OSError(errno.ENOSPC, FULL, *names)


class FullTerminal(io.StringIO):
    name = "<stdout>"

    def write(self, text):
        full()


def write_lines(path):
    for _ in range(100):
        append_line(path, "x" * 99)


def write_bytes(path):
    atomic_write_text(path, "\0" * 5000)


@pytest.mark.parametrize("write", [write_bytes, write_safetensors, write_folder, write_lines])
def test_a_file_that_does_not_fit_is_named(write, told, tmp_path, little_room):
    path = tmp_path / "file"
    code, text = told(lambda: write(path))
    assert (code, text) == (2, f"error: {path}: {os.strerror(errno.EFBIG)}\n")
    left = [file for file in tmp_path.iterdir() if file.stat().st_size % 100]
    assert not left  # no half line, no half file


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda: torch.save(torch.zeros(9999), "/dev/full"), "perhaps for want of space: run: "),
        (lambda: Path("/dev/full").write_bytes(b"x"), f"run: {FULL}"),
        (lambda: full("source", None, "target"), f"error: target: {FULL}"),  # as shutil.copy
        (lambda: say("x", file=FullTerminal()), f"error: <stdout>: {FULL}"),
    ],
    ids=["torch", "plain", "copy", "said"],
)
def test_a_full_disk_is_named(write, name, told):
    def body():
        with naming("run"):
            write()

    code, text = told(body)
    assert (code, text.count("\n")) == (2, 1)
    assert name in text


@pytest.mark.parametrize("error", [OSError(errno.ECONNREFUSED, "refused"), KeyError("a")], ids=repr)
def test_only_what_is_of_a_disk_gets_a_folders_name(error):
    with pytest.raises(type(error)) as caught, naming("run"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda folder: atomic_write_text(folder / ("n" * 300), ""), "File name too long"),
        (lambda folder: atomic_write_text("/proc/no", ""), "/proc/no: "),
        (lambda folder: (folder / "no").read_bytes(), "no: No such file or directory"),
        (read_json, "Is a directory"),
        (lambda folder: save_file({"a": torch.zeros(1)}, "/proc/no"), "os error"),
        (lambda folder: torch.save(torch.zeros(1), "/proc/no"), "No such file or directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_operating_systems_errors_are_one_line(body, words, told, tmp_path):
    code, text = told(lambda: body(tmp_path))
    assert code == 2
    assert text.startswith("error: ") and text.count("\n") == 1
    assert words in text
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_keeps_its_name(told, tmp_path):
    def body():
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_bytes((tmp_path / "other").read_bytes())

    assert told(body) == (2, f"error: {tmp_path / 'other'}: No such file or directory\n")
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_one_line(told):
    def body():
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    assert told(body) == (130, "interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before  # who calls from Python goes on


@pytest.mark.parametrize(
    "start",
    [
        ["-m", "safe_rlhf_panacea", "evaluate"],
        ["-c", "from safe_rlhf_panacea import command as c; c.main(['calibrate'])"],
        ["-m", "safe_rlhf_panacea.base.finetune", *shlex.split(GOOD["sft"])],
    ],
    ids=lambda start: " ".join(start[:3]),
)
def test_ctrl_c_while_libraries_are_imported_and_once_more(start, tmp_path):
    ctrl_c = "os.kill(os.getpid(), signal.SIGINT)"
    text = f"import atexit, os, signal\natexit.register(lambda: {ctrl_c})\n{ctrl_c}\n"
    (tmp_path / "torch.py").write_text(text)
    (tmp_path / "numpy.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *start],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.stdout, done.stderr) == ("", "interrupted\n")
    assert done.returncode == -signal.SIGINT


def test_missing_libraries_are_one_line():
    # As on a fresh machine, where a launcher finds a Python that has nothing installed.
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from safe_rlhf_panacea.errors import UserError, one_line_errors\n"
        "def main(): raise UserError('no libraries')\n"
        "one_line_errors(main)()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: no libraries\n")


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("a"), OSError("a")], ids=repr)
def test_programming_errors_keep_their_traceback(error):
    def body():
        raise error

    with pytest.raises(type(error)) as caught:
        one_line_errors(body)()
    assert caught.value is error
