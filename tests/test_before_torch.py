"""What is said of flags alone is said before torch is imported, which takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from safe_rlhf_panacea.command import PROGRAMS

HEAVY = ("torch", "transformers", "numpy")
TRAININGS = [name for name in PROGRAMS["Train"] if name not in ("quickstart", "small", "world")]


OTHERS = ("memory", "respond", "chat", "serve", "export", "card", "push")


@pytest.mark.parametrize("program", [*TRAININGS, *OTHERS])
def test_help_and_a_misspelt_flag(program):
    code = (
        "import runpy, sys\n"
        "def ending(*words):\n"
        "    sys.argv = ['panacea', *words]\n"
        "    try: runpy.run_module('safe_rlhf_panacea', run_name='__main__')\n"
        "    except SystemExit as stop: return stop.code\n"
        f"print([ending({program!r}, *words) for words in (['--help'], ['--sede', '1'], [])])\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[0, 2, 2]\nloaded: []\n"), done.stderr
    assert done.stderr.count("error: ") == done.stderr.count("\n") == 2
