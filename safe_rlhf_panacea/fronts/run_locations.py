"""Where a run lies and which part of it is meant: ``[LABEL=]FOLDER[@STEP|:EXPERIMENT]``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safe_rlhf_panacea.errors import UserError

FORMS = "FOLDER, FOLDER@STEP or FOLDER:EXPERIMENT[/METHOD], and LABEL= before it if wanted"


@dataclass(frozen=True)
class RunLocation:
    """One RUN of a command line.

    Attributes:
        text: as it was written.
        folder: exists.
        label: what the user calls it; None where he does not.
        step: which evaluation of a training run; None: its last one.
        choice: which part of a quickstart, ``EXPERIMENT`` or ``EXPERIMENT/METHOD``.
    """

    text: str
    folder: Path
    label: str | None = None
    step: int | None = None
    choice: str | None = None

    @property
    def place(self) -> str:
        """What was written, without the label."""
        return f"{self.folder}{self.at}" + ("" if self.choice is None else f":{self.choice}")

    @property
    def at(self) -> str:
        """``@STEP``; empty where no step was chosen."""
        return "" if self.step is None else f"@{self.step}"


def parse_run(text: str) -> RunLocation:
    """Read one RUN; a folder's own ``=``, ``@`` or ``:`` is taken for what it is.

    Raises:
        UserError: there is no such folder, or it is a file.
    """
    for location in _readings(text):
        if location.folder.is_dir():
            return location
        if location.folder.exists():
            raise UserError(f"{location.folder} is a file: give the folder that it lies in")
    raise UserError(f"{text!r}: no such folder (a run is {FORMS})")


def _readings(text: str) -> Iterator[RunLocation]:
    """All that ``text`` may mean, the plainest first."""
    label, separator, rest = text.partition("=")
    named = [(None, text)]
    if separator and label.strip() and rest:
        named.append((label.strip(), rest))
    for name, place in named:
        if place:
            yield RunLocation(text, Path(place).expanduser(), name)
        if match := re.fullmatch(r"(.+)@(\d+)", place):
            yield RunLocation(text, Path(match[1]).expanduser(), name, step=int(match[2]))
        if match := re.fullmatch(r"(.+):([^:]+)", place):
            yield RunLocation(text, Path(match[1]).expanduser(), name, choice=match[2])
