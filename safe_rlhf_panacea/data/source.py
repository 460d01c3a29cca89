"""Where the rows of a data set come from: a file, a folder, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safe_rlhf_panacea.base.hub import may_be_hub_name
from safe_rlhf_panacea.data.files import SUFFIXES, Rows, read_json_rows
from safe_rlhf_panacea.data.hugging_face import (
    iterate_rows,
    open_hub_table,
    open_table,
    split_path,
)
from safe_rlhf_panacea.errors import UserError


class Source(NamedTuple):
    """Rows to be gone through once, and where each of them is; ``where`` keeps no row alive."""

    rows: Iterable[dict[str, Any]]
    where: Callable[[int], str]


class Part(NamedTuple):
    """A part of a published data set.

    ``folder`` is the folder of the repository that holds the part, or None where its split
    alone says which part it is.
    """

    split: str
    folder: str | None = None

    def within(self, path: Path) -> tuple[Path, str]:
        """Where the part is in a local copy: of the repository, or of that folder alone."""
        inner = path / self.folder if self.folder else path
        return (inner if inner.is_dir() else path), self.split


def open_hub(name: str, part: Part, revision: str | None = None) -> Source:
    """Open a part of a data set on the hub.

    Raises:
        UserError: it cannot be had.
    """
    return _table(*open_hub_table(name, part.split, revision, part.folder))


def is_json_file(path: str) -> bool:
    """Whether a path is a JSON file; if not, it is for the package ``datasets`` to read.

    Raises:
        UserError: nothing is there, or a kind of file that nobody here can read.
    """
    place = split_path(path)[0]
    if place.endswith(SUFFIXES) and not Path(place).is_dir():
        if not Path(place).is_file():
            raise UserError(f"{path}: no such file")
        return True
    if Path(place).is_file() and not place.endswith(".parquet"):
        raise UserError(f"{path}: unknown kind of file; there are {', '.join(SUFFIXES)}, .parquet")
    if not Path(place).exists() and not may_be_hub_name(place):
        raise UserError(f"{path}: no such file or folder")
    return False


def open_path(path: str, part: Part | None = None) -> Source:
    """Open what lies at a path, or is on the hub under that name.

    A file is taken whole. Elsewhere ``folder#split`` names a split.

    Args:
        path: of a file, a folder, or a data set of the hub.
        part: taken of a copy of a published data set, unless ``path`` names another split; None:
            the split ``train``, or the only one.

    Raises:
        UserError: nothing readable there, or no such split.
    """
    place, named = split_path(path)
    if is_json_file(path):
        table = read_json_rows(place)
        return Source(table.rows, Rows(table.source, [], table.lines).where)
    if part is None or Path(place).is_file():
        return _table(*open_table(path))
    if not Path(place).exists():
        return open_hub(place, part._replace(split=named or part.split))
    folder, split = part.within(Path(place))
    return _table(*open_table(f"{folder}#{named}" if named else str(folder), split))


def _table(data: Any, source: str) -> Source:
    return Source(iterate_rows(data), Rows(source, []).where)
