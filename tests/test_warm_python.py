"""It behaves as ``python`` does, or the tests that start processes would say nothing."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.warm_python import warm_python


def run(*arguments, **options):
    command = [warm_python(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("code", "status", "errors"),
    [
        ("", 0, ""),
        ("raise SystemExit", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9, ""),
    ],
)
def test_how_it_ends(code, status, errors):
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", errors)


def test_an_error_has_its_traceback():
    done = run("-c", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_folder_environment_input_and_arguments_are_the_callers(tmp_path):
    code = "import os, sys; print(os.getcwd(), dict(os.environ), sys.argv, sys.stdin.read())"
    environment = {"ONE": "1", "LC_ALL": "C.UTF-8"}
    done = run("-c", code, "a", "b c", input="text", env=environment, cwd=tmp_path)
    assert done.stdout == f"{tmp_path} {environment} ['-c', 'a', 'b c'] text\n"


def test_modules_and_scripts(tmp_path):
    (tmp_path / "beside.py").write_text("name = 'beside'\n", encoding="utf-8")
    (tmp_path / "it.py").write_text(
        "import sys, beside\nif __name__ == '__main__':\n    print(beside.name, sys.argv[1:])\n",
        encoding="utf-8",
    )
    assert run("-m", "it", "-x", cwd=tmp_path).stdout == "beside ['-x']\n"
    assert run(str(tmp_path / "it.py"), "-x").stdout == "beside ['-x']\n"


def test_it_ends_with_its_caller(tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    caller = subprocess.Popen([warm_python(), "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(caller.stdout.readline())
    os.kill(pid, 0)  # it is there
    caller.kill()
    caller.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):
            os.kill(pid, 0)
            time.sleep(0.01)
