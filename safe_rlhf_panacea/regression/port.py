"""What the suites that train need before they begin."""

from __future__ import annotations

from safe_rlhf_panacea.regression.checks import CannotRun


def prepare_port() -> None:
    """Quiet libraries, and the port underneath: the references are of its numbers.

    Raises:
        CannotRun: Safe-RLHF is underneath.
    """
    from safe_rlhf_panacea.base import backend
    from safe_rlhf_panacea.miniature.main import quiet_libraries

    if backend().name != "port":
        raise CannotRun(
            "the recorded trainings are of the port, and Safe-RLHF is installed: "
            "run again with the environment variable PANACEA_BASE=port"
        )
    quiet_libraries()
