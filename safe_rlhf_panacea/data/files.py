"""Rows of local JSON files, each with the place that a message can point to."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import unique_keys

PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    ".gz": ("gzip", gzip.decompress),
    ".xz": ("xz", lzma.decompress),
}
SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json") for packed in ("", *PACKED))


@dataclass(frozen=True)
class Rows:
    """Rows of a table.

    ``lines`` holds the line number of each row, or nothing where the source has no lines.
    """

    source: str
    rows: list[dict[str, Any]]
    lines: list[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """``file:line``, or the number of the row counted from 1."""
        if self.lines is None:
            return f"{self.source}, row {index + 1}"
        return f"{self.source}:{self.lines[index]}"


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz`` or ``.xz``."""
    kind, unpack = PACKED.get(path.suffix, ("plain", bytes))
    try:
        return unpack(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: truncated or no {kind} file ({error}); pack it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise UserError(f"{where}: not JSON ({reason}); a row is one object {{...}}") from None


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save it so") from None


def _numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): that also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def read_json_rows(path: str | Path) -> Rows:
    """Read JSON lines (``.jsonl``) or one array of objects (``.json``), plain, gzipped or xz.

    Raises:
        UserError: with file and line where the content is not text, not JSON or no object,
            with the file where it has no rows.
    """
    path = Path(path)
    text = _decode(read_bytes(path), path)
    unpacked = path.with_suffix("") if path.suffix in PACKED else path
    is_array = unpacked.suffix == ".json" and text.lstrip().startswith("[")
    if is_array:
        rows, lines = _parse(text, str(path)), None
    else:
        numbered = list(_numbered_lines(text))
        rows = [_parse(line, f"{path}:{number}") for number, line in numbered]
        lines = [number for number, _ in numbered]
    result = Rows(str(path), rows, lines)
    if not rows:
        raise UserError(f"{path}: no rows; a data file has one JSON object per line")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise UserError(f"{result.where(index)}: a JSON {kind}; a row is one object {{...}}")
    return result
