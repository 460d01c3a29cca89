"""List what an installed Safe-RLHF needs on today's libraries, or run a program with that applied.

usage: python -m safe_rlhf_panacea.patches [-h] [--module MODULE [flags of the module]]

Example:
  python -m safe_rlhf_panacea.patches
  python -m safe_rlhf_panacea.patches --module safe_rlhf.algorithms.dpo --help
"""

import runpy
import sys

from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.patches import PatchedImportError, import_safe_rlhf, outcomes


def patched() -> str:
    """Import Safe-RLHF; its folder."""
    try:
        return import_safe_rlhf().__path__[0]
    except ModuleNotFoundError as error:
        if error.name != "safe_rlhf":
            raise
        raise UserError("Safe-RLHF is not installed; docs/safe_rlhf.md says how") from None
    except PatchedImportError as error:
        report()
        raise UserError(f"Safe-RLHF does not import: {error}") from error


def report() -> bool:
    """Print one line per patch; whether none failed."""
    for outcome in outcomes():
        print(f"{outcome.state:<13}{outcome.name:<24}{outcome.detail}")
    return not any(outcome.state == "failed" for outcome in outcomes())


@one_line_errors
def main() -> int:
    """List or run."""
    if sys.argv[1:2] == ["--module"] and len(sys.argv) > 2:
        patched()
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return 0
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    if sys.argv[1:]:
        raise UserError(f"{sys.argv[1]}: there is --module MODULE with its flags, or nothing")
    print(f"Safe-RLHF: {patched()}")
    return 0 if report() else 1


if __name__ == "__main__":
    sys.exit(main())
