"""Where the rows of a data set come from: a JSON file, a table of ``datasets``, or the hub."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.hub import may_be_hub_name, prepare_hub
from safe_rlhf_panacea.io import unique_keys

Row = dict[str, Any]
PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    ".gz": ("gzip", gzip.decompress),
    ".xz": ("xz", lzma.decompress),
}
SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json") for packed in ("", *PACKED))
ROWS_AT_ONCE = 1024  # rows of a table that are Python objects at one time


class Source(NamedTuple):
    """Rows to be gone through once, and where each of them is.

    ``where`` takes a row's index, makes the place that messages name, and keeps no row alive.
    """

    rows: Iterable[Row]
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


def open_path(path: str, part: Part | None = None) -> Source:
    """Open what lies at a path, or is on the hub under that name.

    A JSON file (``.jsonl`` or ``.json``, plain, gzipped or xz) or a ``.parquet`` file is taken
    whole. Of a folder that ``datasets`` reads, or of the hub, ``path#split`` names a split.

    Args:
        path: of a file, a folder, or a data set of the hub.
        part: taken of a copy of a published data set, unless ``path`` names another split; None:
            the split ``train``, or the only one.

    Raises:
        UserError: nothing readable there, or no such split.
    """
    place, named = split_path(path)
    if is_json_file(path):
        return read_json_rows(place)
    if part is None or Path(place).is_file():
        return _open_table(place, named)
    if not Path(place).exists():
        return open_hub(place, part._replace(split=named or part.split))
    folder, split = part.within(Path(place))
    return _open_table(str(folder), named, split)


def split_path(path: str) -> tuple[str, str | None]:
    """Take ``path#split`` apart; the split is None where none is named."""
    if Path(path).exists():
        return path, None
    path, _, split = path.partition("#")
    return path, split or None


def rows_place(source: str, index: int) -> str:
    """The place of a row in a source that has no lines, for messages."""
    return f"{source}, row {index + 1}"


# -- JSON files ---------------------------------------------------------------------------


def is_json_file(path: str) -> bool:
    """Whether a path is a JSON file; if not, it is for the package ``datasets`` to read.

    Raises:
        UserError: nothing is there, or a kind of file that cannot be read.
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


def read_json_rows(path: str | Path) -> Source:
    """Read JSON lines (``.jsonl``) or one array of objects (``.json``), plain, gzipped or xz.

    Raises:
        UserError: with file and line where the content is not text, not JSON or no object,
            with the file where it has no rows.
    """
    path = Path(path)
    text = _decode(_read_bytes(path), path)
    unpacked = path.with_suffix("") if path.suffix in PACKED else path
    where = partial(rows_place, str(path))
    if unpacked.suffix == ".json" and text.lstrip().startswith("["):
        rows = _parse(text, str(path))
    else:
        # Not splitlines(): that also breaks at characters that may stand inside a JSON string.
        lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
        rows = [_parse(line, f"{path}:{number}") for number, line in lines]
        where = partial(_line_place, str(path), [number for number, _ in lines])
    if not rows:
        raise UserError(f"{path}: no rows; a data file has one JSON object per line")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise UserError(f"{where(index)}: a JSON {kind}; a row is one object {{...}}")
    return Source(rows, where)


def _line_place(source: str, lines: Sequence[int], index: int) -> str:
    return f"{source}:{lines[index]}"


def _read_bytes(path: Path) -> bytes:
    kind, unpack = PACKED.get(path.suffix, ("plain", bytes))
    try:
        return unpack(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: truncated or no {kind} file ({error}); pack it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save it so") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise UserError(f"{where}: not JSON ({reason}); a row is one object {{...}}") from None


# -- what the package datasets reads ------------------------------------------------------


def open_hub(name: str, part: Part, revision: str | None = None) -> Source:
    """Open a part of a data set on the hub, without its other splits.

    Args:
        name: ``owner/name``.
        part: its split, and its folder in the repository.
        revision: a branch, tag or commit; the newest unless given.

    Raises:
        UserError: it cannot be had.
    """
    options = {"split": part.split, "revision": revision, "data_dir": part.folder}
    data = _load(name, **{key: value for key, value in options.items() if value is not None})
    place = "/".join(filter(None, [f"{name}@{revision}" if revision else name, part.folder]))
    return _rows_of(data, f"{place}#{part.split}")


def _open_table(path: str, named: str | None, split: str | None = None) -> Source:
    """Open a saved folder, a folder of data files, a Parquet file, or a hub name.

    The split is ``named``, else ``split``, else ``train`` or the only one.
    """
    data = _load(path)
    if not hasattr(data, "keys"):  # with splits it is a dictionary of tables
        if named is not None:
            raise UserError(f"{path}: has no splits; leave out #{named}")
        return _rows_of(data, path)
    names = list(data)
    wanted = named or split or ("train" if "train" in names or len(names) != 1 else names[0])
    if wanted not in names:
        raise UserError(
            f"{path}: there is no split {wanted!r}; there are: {', '.join(names)} "
            f"(choose as {path}#{names[0] if names else 'train'})"
        )
    return _rows_of(data[wanted], f"{path}#{wanted}")


def _load(path: str, **options: Any) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: reading it needs the package datasets (pip install datasets)"
        ) from None
    folder = Path(path)
    if not folder.exists() and not prepare_hub():
        datasets.config.HF_HUB_OFFLINE = True
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            return datasets.load_from_disk(path)
        if folder.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=path)
        return datasets.load_dataset(path, **options)
    except Exception as error:  # whatever goes wrong in there, it is about this path
        reason = " ".join(str(error).split())
        kind = "a data set" if folder.exists() else "a file, a folder or a data set of the hub"
        raise UserError(
            f"{path}: cannot be read as {kind} ({type(error).__name__}: {reason})"
        ) from error


def _rows_of(data: Any, source: str) -> Source:
    return Source(_iterate(data), partial(rows_place, source))


def _iterate(data: Any) -> Iterator[Row]:
    """The rows of a table one by one, read ``ROWS_AT_ONCE`` at a time."""
    for columns in data.iter(batch_size=ROWS_AT_ONCE):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
