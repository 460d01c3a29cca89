"""What a suite is: a module with ``HELP``, ``run`` and, where it can record, ``record``.

``run(options)`` gives the checks, ``record(options)`` the files that it wrote; both raise
``CannotRun`` for what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.aggregation import AggregationError
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.preference import PreferenceError
from safe_rlhf_panacea.regression.checks import CannotRun, Check

# What the packages raise for bad input, such as a damaged file.
BAD_INPUT = (UserError, AdapterError, AggregationError, PreferenceError)
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What every suite is given.

    Attributes:
        references: the folder of reference files; a suite reads the sub-folder of its name.
        work_dir: an empty folder for whatever the suite trains or writes.
        local_dir: where published checkpoints and data lie, one folder each; None for the hub.
        progress: whether to show bars.
        checkpoints: of ``published``: these only; none named means all.
        dtype: of ``published``: ``bfloat16`` or ``float32``.
        accuracy: of ``published``: also the accuracies on a test split.
        pairs: of ``published``: so many pairs of that split, drawn at random; None for all.
        batch_size: of ``published``: sequences in one forward pass.
    """

    references: Path
    work_dir: Path
    local_dir: Path | None = None
    progress: bool = True
    checkpoints: tuple[str, ...] = ()
    dtype: str = "bfloat16"
    accuracy: bool = False
    pairs: int | None = None
    batch_size: int = 16


def find_references(options: Options, suite: str, pattern: str) -> list[Path]:
    """The reference files of a suite, in the order of their paths.

    Raises:
        CannotRun: there are none.
    """
    folder = options.references / suite
    found = sorted(folder.glob(pattern))
    if not found:
        raise CannotRun(f"{suite}: no references in {folder}; they are kept in the repository")
    return found


def check_each(things: Iterable[T], check: Callable[[T], Iterable[Check]]) -> list[Check]:
    """The checks of all things; one that cannot be checked does not keep others from it.

    Raises:
        CannotRun: some could not be checked; with the reasons, and the checks of the others.
    """
    checks: list[Check] = []
    reasons: list[str] = []
    for thing in things:
        try:
            for one in check(thing):  # one by one: those before a mishap are kept
                checks.append(one)
        except CannotRun as error:
            reasons += error.reasons
        except BAD_INPUT as error:
            reasons.append(" ".join(str(error).split()))
    if reasons:
        raise CannotRun(*reasons, checks=checks)
    return checks
