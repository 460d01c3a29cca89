"""What the suites that train want to find before they begin."""

from __future__ import annotations

import torch

from safe_rlhf_panacea.regression.checks import CannotRun


def prepare_port() -> None:
    """Quiet libraries, and the port underneath: the references are of its numbers.

    Raises:
        CannotRun: Safe-RLHF is underneath.
    """
    from safe_rlhf_panacea.base import backend
    from safe_rlhf_panacea.printing import quiet_libraries

    if backend().name != "port":
        raise CannotRun(
            "the recorded trainings are of the port, and Safe-RLHF is installed: "
            "run again with the environment variable PANACEA_BASE=port"
        )
    quiet_libraries()


def check_cpu() -> None:
    """The trainers take a GPU where there is one, and a GPU samples other tokens.

    Raises:
        CannotRun: there is one.
    """
    if torch.cuda.is_available():
        raise CannotRun(
            "the recorded steps are of a CPU, and there is a GPU: "
            "run again with the environment variable CUDA_VISIBLE_DEVICES empty"
        )
