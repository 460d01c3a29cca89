"""The start of a Panacea program, whichever trainers are underneath."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.base import backend
from safe_rlhf_panacea.printing import say

DeepSpeedConfig = dict[str, Any]


def prepare_run(args: Any) -> tuple[DeepSpeedConfig, DeepSpeedConfig]:
    """Start the processes, seed, and say in one line which Safe-RLHF is underneath.

    Returns:
        The training and evaluation configurations of DeepSpeed.

    Raises:
        UserError: contradictory flags, or a folder that already holds a run.
    """
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.on_safe_rlhf import program

        configs = program.prepare_run(args)
    else:
        from safe_rlhf_panacea.base import setup

        configs = setup.prepare_run(args)
    from safe_rlhf_panacea.distributed import is_main_process

    if is_main_process():
        say(str(backend()))
    return configs
