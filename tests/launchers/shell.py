"""Running launchers as a user does."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.experiments.__main__ import main
from tests.warm_python import warm_python

ECHO = Path(__file__).with_name("echo.sh")
BASH = Path(__file__).resolve().parents[2] / "bash"


def run(
    launcher: str, *flags: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a launcher; nothing of the user's wandb account is passed on."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PANACEA_"))}
    return subprocess.run(
        ["bash", str(BASH / launcher), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**kept, "PYTHON": warm_python(), **environment},
        check=False,
    )


@functools.cache
def dry_run(launcher: str, *flags: str) -> dict[str, Any]:
    """What a launcher says it would run; its Python program runs in this process."""
    words = run(launcher, *flags, "--dry_run", PYTHON=str(ECHO)).stdout.splitlines()
    assert words[:2] == ["-m", "safe_rlhf_panacea.experiments"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(words[2:])
    return json.loads(printed.getvalue())
