"""What a suite is: a module with ``HELP``, ``run`` and, where it can record, ``record``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What every suite is given.

    Attributes:
        references: the folder of reference files; a suite reads the sub-folder of its name.
        work_dir: an empty folder for whatever the suite trains or writes.
        local_dir: where published checkpoints and data lie, one folder each; None for the hub.
        progress: whether to show bars.
    """

    references: Path
    work_dir: Path
    local_dir: Path | None = None
    progress: bool = True
