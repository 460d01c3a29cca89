"""Where the rows of a published data set come from: the hub, or a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safe_rlhf_panacea.base.datasets.builtin import is_json_file
from safe_rlhf_panacea.base.datasets.files import Rows, read_json_rows
from safe_rlhf_panacea.base.datasets.hugging_face import (
    iterate_rows,
    open_hub_table,
    open_table,
    split_path,
)


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


def open_path(path: str, part: Part) -> Source:
    """Open a part of a local copy, or of another data set of the hub with the same layout.

    A file is taken whole. Of a folder, the part's split is taken, unless ``path`` names
    another one as ``folder#split``.

    Raises:
        UserError: nothing readable there, or no such split.
    """
    place, named = split_path(path)
    if is_json_file(path):
        table = read_json_rows(place)
        return Source(table.rows, Rows(table.source, [], table.lines).where)
    if not Path(place).exists():
        return open_hub(place, part._replace(split=named or part.split))
    if not Path(place).is_dir():
        return _table(*open_table(path))
    folder, split = part.within(Path(place))
    return _table(*open_table(f"{folder}#{named}" if named else str(folder), split))


def _table(data: Any, source: str) -> Source:
    return Source(iterate_rows(data), Rows(source, []).where)
