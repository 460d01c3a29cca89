"""``name[:proportion[:path]]``: which data set, how much of it, and where it lies."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.datasets.files import SUFFIXES
from safe_rlhf_panacea.errors import UserError

FORM = "name[:proportion[:path]]"
Attributes = float | int | Fraction | Mapping[str, Any]
Spec = str | tuple[str, Attributes]
MOST_ROWS = 10**8  # taken out of one data set
Specs = str | Iterable[Spec] | Mapping[str, Attributes]


@dataclass(frozen=True)
class DatasetSpec:
    """One data set of a run.

    ``proportion`` 0.5 is a random half, 2 is every row twice, and the negative integer
    ``Fraction(-100)``, written ``100/-1``, is 100 rows.
    """

    name: str
    proportion: float | Fraction = 1.0
    path: str | None = None

    def __post_init__(self) -> None:
        """Check the proportion."""
        counted = isinstance(self.proportion, Fraction) and self.proportion.denominator == 1
        if not (counted and self.proportion < 0) and not 0 < self.proportion < math.inf:
            raise UserError(
                f"data set {self.name!r}: proportion {self.proportion} is not above 0; "
                "0.5 is half the rows, 2 each row twice, 100/-1 a hundred rows"
            )
        self._check_size(abs(self.proportion))  # of a row or more

    def __str__(self) -> str:
        return self.path or self.name

    def count(self, rows: int) -> int:
        """How many rows to take out of ``rows``."""
        count = -int(self.proportion) if self.proportion < 0 else round(rows * self.proportion)
        self._check_size(count)
        if count == 0:
            raise UserError(f"{self}: proportion {self.proportion} of {rows} rows is not one row")
        return count

    def _check_size(self, count: float | Fraction) -> None:
        if count > MOST_ROWS:
            proportion = str(self.proportion)[:20]
            raise UserError(
                f"data set {self.name!r}: proportion {proportion} makes over {MOST_ROWS:,} rows"
            )


def _parse_proportion(text: str, string: str) -> float | Fraction:
    above, slash, below = text.partition("/")
    try:
        if slash and below.strip() == "-1":
            rows = int(above)
            return Fraction(-rows) if rows > 0 else float(rows)
        return float(above) / float(below) if slash else float(text or 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(
            f"data set {string!r}: proportion {text!r} is neither a number nor a fraction "
            f"such as 1/2; the form is {FORM}"
        ) from None


def parse_dataset(string: str) -> tuple[str, dict[str, Any]]:
    """Take ``name[:proportion[:path]]`` apart.

    Returns:
        The name, and ``proportion`` and, where given, ``path``.

    Raises:
        UserError: no name, or a file in its place, a proportion that is no number, an empty path.
    """
    name, *rest = string.split(":", 2)
    if not name.strip():
        raise UserError(f"data set {string!r} has no name; the form is {FORM}")
    if name.endswith((*SUFFIXES, ".parquet")) or (Path(name).is_file() and Path(name).suffix):
        share = rest[0] if rest else "1"
        raise UserError(
            f"data set {string!r} is a file without a name that says what it holds: write "
            f"pairs:{share}:{name}, or prompts, supervised or chosen in place of pairs"
        )
    attributes: dict[str, Any] = {"proportion": 1.0}
    if rest:
        attributes["proportion"] = _parse_proportion(rest[0].strip(), string)
    if len(rest) > 1:
        if not rest[1].strip():
            raise UserError(f"data set {string!r} has an empty path; the form is {FORM}")
        attributes["path"] = os.path.expanduser(rest[1])
    return name, attributes


def read_specs(specs: Specs) -> list[DatasetSpec]:
    """Check what a data set was made from; strings or Safe-RLHF's (name, attributes) pairs.

    Raises:
        UserError: nothing given, a malformed entry, or the same data twice.
    """
    if isinstance(specs, str):
        specs = [specs]
    entries = specs.items() if isinstance(specs, Mapping) else specs
    result = []
    for entry in entries:
        name, attributes = parse_dataset(entry) if isinstance(entry, str) else entry
        if not isinstance(attributes, Mapping):
            attributes = {"proportion": attributes}
        unknown = set(attributes) - {"proportion", "path"}
        if unknown:
            raise UserError(
                f"data set {name!r}: unknown attribute {', '.join(sorted(unknown))}; "
                "there are proportion and path"
            )
        result.append(DatasetSpec(name, **attributes))
    if not result:
        raise UserError(f"no data set given; give at least one as {FORM}")
    keys = [(spec.name, spec.path) for spec in result]
    for spec, key in zip(result, keys, strict=True):
        if keys.count(key) > 1:
            raise UserError(f"{spec} is given twice; a proportion of 2 takes every row twice")
    return result
