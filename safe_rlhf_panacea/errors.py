"""The one kind of error that is the user's to mend, and what else is told in one line."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import NoReturn

from safe_rlhf_panacea.printing import printable_line, say

INTERRUPTED = 130  # a shell's code for a program that was ended by SIGINT
# How the libraries that write and send without Python tell of the operating system.
FOREIGN = {
    r"\(os error \d+\)": "",
    "^Could not determine home directory": "a path begins with ~ and a name that no user has: ",
    r"PytorchStreamWriter failed|inline_container.*(unexpected pos|open file failed)": (
        "a file could not be written, perhaps for want of space: "
    ),
    r"(closed|reset) by peer|remote process exited|process pool was terminated": (
        "another process has ended: "
    ),
}


class UserError(ValueError, ArgumentTypeError):
    """Bad input, told in one line: what is wrong, where, and what would be right.

    Argparse tells its text, too, where a function that reads a flag's value raises it.
    """


class SharedError(UserError):
    """The error of one process, raised on all of them; the main process tells it."""


def one_line(error: BaseException) -> str | None:
    """What there is to say of bad input or of the operating system; None of all other errors."""
    if isinstance(error, UserError):
        return printable_line(error)
    if isinstance(error, OSError) and error.errno and error.strerror:
        named = error.filename if error.filename2 is None else error.filename2
        where = "" if named is None else f"{os.fsdecode(named)}: "
        return printable_line(where + error.strerror)
    if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":
        for pattern, meaning in FOREIGN.items():
            if re.search(pattern, str(error)):
                return printable_line(f"{meaning}{error}")
    return None


def fail(error: Exception) -> NoReturn:
    """Print ``error`` as one line and leave with exit code 2."""
    say(f"error: {one_line(error) or printable_line(error)}", file=sys.stderr)
    raise SystemExit(2)


def one_line_errors(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Turn the user's errors of an entry point into one line on stderr and exit code 2.

    Programming errors keep their traceback. Of several processes with the same error one speaks.
    """

    @wraps(main)
    def guarded(*args: object, **kwargs: object) -> int | None:
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt as error:
            tell_interruption(type(error), error, None)
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            if one_line(error) is None:
                raise
            # Not imported here: who has not loaded torch, or lacks it, has joined no other process.
            dist = sys.modules.get("torch.distributed")
            joined = dist is not None and dist.is_available() and dist.is_initialized()
            # Before they are joined, all processes meet the same error.
            if not _speaks() and (isinstance(error, SharedError) or not joined):
                raise SystemExit(2) from None
            fail(error)

    return guarded


def tell_interruption(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Tell Ctrl-C in one line, all else as Python does; a ``sys.excepthook``.

    So Ctrl-C while libraries are imported is told in one line too. In a process that has this
    hook, which ends now, another one while Python shuts down ends it at once, without a word.
    """
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and sys.excepthook is tell_interruption:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _speaks():
        say(": ".join(("interrupted", *map(str, error.args))), file=sys.stderr)


def _speaks() -> bool:
    """Whether this is the first process of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
