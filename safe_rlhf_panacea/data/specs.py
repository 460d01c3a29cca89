"""Which data sets a run asks for, ``[objective=]name[:proportion[:path]]``, and what paths open."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.data.raw import AUTO, RawDataset, Row, Source
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.hub import may_be_hub_name, prepare_hub
from safe_rlhf_panacea.io import unique_keys

FORM = "name[:proportion[:path]]"
MOST_ROWS = 10**8  # taken out of one data set
PACKED: dict[str, Any] = {".gz": ("gzip", gzip.decompress), ".xz": ("xz", lzma.decompress)}
SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json") for packed in ("", *PACKED))
ROWS_AT_ONCE = 1024  # rows of a table that are Python objects at one time
Attributes = float | int | Fraction | Mapping[str, Any]


@dataclass(frozen=True)
class DatasetSpec:
    """One data set of a run.

    Of its ``proportion``, 0.5 is a random half, 2 is every row twice, and the negative integer
    ``Fraction(-100)``, written ``100/-1``, is 100 rows.
    """

    name: str
    proportion: float | Fraction = 1.0
    path: str | None = None  # where it lies, if not at its usual place
    objective: str | None = None  # that its pairs are labelled for; None: as its rows say
    data: RawDataset | None = None  # itself, if it need not be opened by its name

    def __post_init__(self) -> None:
        """Check the proportion."""
        counted = isinstance(self.proportion, Fraction) and self.proportion.denominator == 1
        if not (counted and self.proportion < 0) and not 0 < self.proportion < math.inf:
            raise UserError(
                f"data set {self.name!r}: proportion {self.proportion} is not above 0; "
                "0.5 is half the rows, 2 each row twice, 100/-1 a hundred rows"
            )
        self._check_size(max(self.proportion, -self.proportion))  # of a row or more

    def __str__(self) -> str:
        return self.path or self.name

    def load(self) -> RawDataset:
        """Open the data set; ``UserError`` if it cannot be read or has no rows."""
        return RawDataset.load(self.name, path=self.path) if self.data is None else self.data

    def count(self, rows: int) -> int:
        """How many rows to take out of ``rows``."""
        count = -int(self.proportion) if self.proportion < 0 else round(rows * self.proportion)
        self._check_size(count)
        if count == 0:
            raise UserError(f"{self}: proportion {self.proportion} of {rows} rows is not one row")
        return count

    def _check_size(self, count: float | Fraction) -> None:
        if count > MOST_ROWS:
            told = f"data set {self.name!r}: proportion {str(self.proportion)[:20]}"
            raise UserError(f"{told} makes over {MOST_ROWS:,} rows")


Spec = str | tuple[str, Attributes] | RawDataset | DatasetSpec
Specs = str | RawDataset | DatasetSpec | Iterable[Spec] | Mapping[str, Attributes]


def _parse(string: str) -> DatasetSpec:
    """The data set that a string names; a path alone is read as ``auto``."""
    objective, spec = None, string
    head, equals, rest = string.partition("=")
    place = re.split("[:#]", string, maxsplit=1)[0]
    if equals and not re.search("[:/]", head) and not Path(place).exists():
        objective, spec = head, rest
        if not head.strip():
            raise UserError(f"data set {string!r} names no objective before the =")
    name, *parts = spec.split(":", 2)
    if not name.strip():
        raise UserError(f"data set {spec!r} has no name; the form is {FORM}")
    if len(parts) < 2 and _is_place(name):
        name, parts = AUTO, [*(parts or ["1"]), name]
    proportion: float | Fraction = 1.0
    if text := "".join(parts[:1]).strip():
        above, slash, below = text.partition("/")
        try:
            if slash and below.strip() == "-1":
                rows = int(above)
                proportion = Fraction(-rows) if rows > 0 else float(rows)
            else:
                proportion = float(above) / float(below if slash else 1)
        except (ValueError, ZeroDivisionError):
            raise UserError(
                f"data set {spec!r}: proportion {text!r} is neither a number nor a fraction "
                f"such as 1/2; the form is {FORM}"
            ) from None
    if len(parts) < 2:
        return DatasetSpec(name, proportion, objective=objective)
    if not parts[1].strip():
        raise UserError(f"data set {spec!r} has an empty path; the form is {FORM}")
    return DatasetSpec(name, proportion, os.path.expanduser(parts[1]), objective)


def _is_place(name: str) -> bool:
    """Whether the name in a spec is a file, a folder or a hub name, not a known data set."""
    if name in RawDataset.registry:
        return False
    place, _, _ = name.partition("#")
    if name.endswith((*SUFFIXES, ".parquet")) or Path(place).expanduser().exists():
        return True
    families = {cls.NAME.partition("/")[0] for cls in RawDataset.registered()}
    return "/" in place and place.partition("/")[0] not in families and may_be_hub_name(place)


def _read_spec(entry: Spec) -> DatasetSpec:
    if isinstance(entry, DatasetSpec):
        return entry
    if isinstance(entry, RawDataset):
        return DatasetSpec("rows", data=entry)
    if isinstance(entry, str):
        return _parse(entry)
    name, given = entry
    attributes = dict(given) if isinstance(given, Mapping) else {"proportion": given}
    if unknown := set(attributes) - {"proportion", "path"}:
        raise UserError(
            f"data set {name!r}: unknown attribute {', '.join(sorted(unknown))}; "
            "there are proportion and path"
        )
    return DatasetSpec(name, **attributes)


def read_specs(specs: Specs) -> list[DatasetSpec]:
    """The data sets of a run, of one or many specs; a ``UserError`` if the same stands twice.

    They are strings ``[objective=]name[:proportion[:path]]``, Safe-RLHF's (name, attributes) pairs,
    data sets such as ``from_rows`` makes, or ``DatasetSpec``.
    """
    if isinstance(specs, (str, RawDataset, DatasetSpec)):
        specs = [specs]
    entries: Iterable[Spec] = specs.items() if isinstance(specs, Mapping) else specs
    result = [_read_spec(entry) for entry in entries]
    if not result:
        raise UserError(f"no data set given; give at least one as {FORM}")
    keys = [(spec.name, spec.path, spec.objective, spec.data) for spec in result]
    for spec, key in zip(result, keys, strict=True):
        if keys.count(key) > 1:
            raise UserError(f"{spec} is given twice; a proportion of 2 takes every row twice")
    return result


def split_path(path: str) -> tuple[str, str | None]:
    """Take ``path#split`` apart; the split is None where none is named."""
    if Path(path).exists():
        return path, None
    path, _, split = path.partition("#")
    return path, split or None


def is_on_hub(place: str) -> bool:
    """Whether nothing lies at a place, and it may be a name on the hub."""
    return not (place.endswith(SUFFIXES) or Path(place).exists()) and may_be_hub_name(place)


def open_path(path: str) -> Source:
    """Open what lies at a path, or is on the hub under that name.

    A JSON file (``.jsonl`` or ``.json``, plain, gzipped or xz) or a ``.parquet`` file is taken
    whole. Of a folder that ``datasets`` reads, or of the hub, ``path#split`` names a split; else
    it is ``train``, or the only one. A ``UserError`` says what cannot be read.
    """
    place, split = split_path(path)
    lies = Path(place)
    if not lies.exists() and not is_on_hub(place):
        raise UserError(f"{path}: no such file or folder")
    if lies.is_file() and place.endswith(SUFFIXES):
        return _read_json_rows(lies)
    if lies.is_file() and lies.suffix != ".parquet":
        raise UserError(f"{path}: unknown kind of file; there are {', '.join(SUFFIXES)}, .parquet")
    return open_table(place, split)


def open_table(path: str, split: str | None, preferred: str | None = None) -> Source:
    """Open what ``datasets`` reads, without ``split`` the ``preferred``, ``train`` or only one."""
    data = load_table(path)
    if not hasattr(data, "keys"):  # with splits it is a dictionary of tables
        if split is not None:
            raise UserError(f"{path}: has no splits; leave out #{split}")
        return rows_of(data, path)
    names = list(data)
    wanted = split or preferred or (names[0] if len(names) == 1 else "train")
    if wanted not in names:
        raise UserError(
            f"{path}: there is no split {wanted!r}; there are: {', '.join(names)} "
            f"(choose as {path}#{names[0] if names else 'train'})"
        )
    return rows_of(data[wanted], f"{path}#{wanted}")


def load_table(path: str, **options: Any) -> Any:
    """What the package ``datasets`` finds at a path or on the hub."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: reading it needs the package datasets (pip install datasets)"
        ) from None
    folder = Path(path)
    if not folder.exists() and not prepare_hub():
        datasets.config.HF_HUB_OFFLINE = True
    try:
        if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
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


def rows_of(table: Any, told: str) -> Source:
    """The rows of a table, of which few are Python objects at one time."""

    def rows() -> Iterator[Row]:
        for columns in table.iter(batch_size=ROWS_AT_ONCE):
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

    return Source(rows(), partial(row_place, told))


def row_place(told: str, index: int, lines: Sequence[int] = ()) -> str:
    """The place of a row for messages: its line, or its number where the source has no lines."""
    return f"{told}:{lines[index]}" if lines else f"{told}, row {index + 1}"


def _read_json_rows(path: Path) -> Source:
    """Read JSON lines (``.jsonl``) or one array of objects (``.json``), plain, gzipped or xz."""
    kind, unpack = PACKED.get(path.suffix, ("plain", bytes))
    try:
        content = unpack(path.read_bytes())
        text = content.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: truncated or no {kind} file ({error}); pack it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save it so") from None
    unpacked = path.with_suffix("") if path.suffix in PACKED else path
    if unpacked.suffix == ".json" and text.lstrip().startswith("["):
        rows, where = _parse_json(text, str(path)), partial(row_place, str(path))
    else:
        # Not splitlines(): that also breaks at characters that may stand inside a JSON string.
        lines = {i: line for i, line in enumerate(text.split("\n"), start=1) if line.strip()}
        rows = [_parse_json(line, f"{path}:{i}") for i, line in lines.items()]
        where = partial(row_place, str(path), lines=list(lines))
    if not rows:
        raise UserError(f"{path}: no rows; a data file has one JSON object per line")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            told = f"{where(index)}: a JSON {type(row).__name__}"
            raise UserError(f"{told}; a row is one object {{...}}")
    return Source(rows, where)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise UserError(f"{where}: not JSON ({reason}); a row is one object {{...}}") from None
