"""Opening a run of weights & biases that neither asks for a login nor tells more than it is given.

The usual variables are obeyed: ``WANDB_MODE`` (online, offline, disabled), ``WANDB_DISABLED``,
``WANDB_PROJECT``, ``WANDB_NAME``, ``WANDB_RUN_ID`` and whatever else wandb itself reads. Without
``WANDB_MODE`` a run is online where ``WANDB_API_KEY`` is set, and else offline.
"""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlparse

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.records import misfit
from safe_rlhf_panacea.runs.run_folder import WANDB_FILE

PROJECT = "safe-rlhf-panacea"
Mode = Literal["online", "offline", "disabled", "shared"]
MODES: dict[str, Mode] = {"run": "online", "dryrun": "offline"}  # by their older names
MODES |= {mode: mode for mode in get_args(Mode)}
INIT_TIMEOUT = 30.0  # seconds to reach the server before a run goes offline


def wanted_mode() -> Mode:
    """What the environment asks for; a ``UserError`` where that is no mode of wandb's."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    given = os.environ.get("WANDB_MODE", "").lower()
    if not given:
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"
    if given not in MODES:
        raise UserError(f"WANDB_MODE={given} is none of online, offline and disabled")
    return MODES[given]


def has_login(base_url: str) -> bool:
    """Whether there is a key for the server, so that wandb will not ask for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        return netrc.netrc(file).authenticators(urlparse(base_url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def open_run(
    log_dir: Path,
    project: str | None,
    name: str | None,
    config: dict[str, Any],
    *,
    resume: bool = False,
) -> Any:
    """Open a run whose files lie in ``log_dir/wandb``.

    A server that cannot be reached, or would want a login, makes it an offline run; a line says so.
    With ``resume`` the run that was opened for this folder before goes on. Neither the command
    line, the host, the user nor the checkout leave this machine.
    """
    import wandb

    mode = wanted_mode()
    if mode in ("online", "shared") and not has_login(wandb.Settings().base_url):
        _tell(f"WANDB_MODE={mode}, but nobody is logged in (wandb login, or WANDB_API_KEY)")
        mode = "offline"
    elif mode == "offline" and not os.environ.get("WANDB_MODE"):
        _tell("no WANDB_MODE and no WANDB_API_KEY")
    text = os.environ.get("WANDB_INIT_TIMEOUT", "")
    try:
        init_timeout = float(text) if text else INIT_TIMEOUT
    except ValueError:
        raise UserError(f"WANDB_INIT_TIMEOUT={text} is no number of seconds") from None
    hidden: dict[str, Any] = dict.fromkeys(("host", "username", "email"), "")
    off = ("x_disable_meta", "x_disable_stats", "disable_git", "disable_code", "silent")
    hidden |= {"console": "off", "init_timeout": init_timeout, **dict.fromkeys(off, True)}
    options: dict[str, Any] = {
        "project": project or os.environ.get("WANDB_PROJECT") or PROJECT,
        "name": name or os.environ.get("WANDB_NAME"),
        "dir": str(log_dir),
        "config": config,
        "settings": wandb.Settings(**hidden),
    }
    file = log_dir / WANDB_FILE
    if resume and "WANDB_RUN_ID" not in os.environ and file.is_file():
        record = read_json(file)
        if misfit(record, {"id": str}):
            raise UserError(f"{file}: it names no run of wandb; remove it for a new one")
        options |= {"id": record["id"], "resume": "allow"}
    try:
        run = wandb.init(mode=mode, **options)
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        if mode not in ("online", "shared"):
            raise
        _tell(f"the server does not answer or refuses ({str(error).splitlines()[0]})")
        run = wandb.init(mode="offline", **options)
    if mode != "disabled":
        atomic_write_json(file, {"id": run.id})
    return run


def _tell(why: str) -> None:
    say(f"wandb: {why}, so the run is logged offline; wandb sync uploads it", file=sys.stderr)
