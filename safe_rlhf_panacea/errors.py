"""The one kind of error that is the user's to mend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn


class UserError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what would be right."""


def fail(error: Exception) -> NoReturn:
    """Print ``error`` as one line and leave with exit code 2."""
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)


def one_line_errors(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Turn the user's errors of an entry point into one line on stderr and exit code 2.

    Programming errors keep their traceback: only the errors that the packages raise for
    bad input are caught.
    """

    @wraps(main)
    def guarded(*args: object, **kwargs: object) -> int | None:
        from safe_rlhf_panacea.adapter import AdapterError
        from safe_rlhf_panacea.aggregation import AggregationError
        from safe_rlhf_panacea.preference import PreferenceError

        try:
            return main(*args, **kwargs)
        except (UserError, AdapterError, AggregationError, PreferenceError) as error:
            fail(error)

    return guarded
