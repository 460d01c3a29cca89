"""Running launchers as a user does."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.warm_python import warm_python

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
    """What a launcher says it would run."""
    result = run(launcher, *flags, "--dry_run")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
