"""``[objective=]name[:proportion[:path]]``: which data set, how much of it, and its rows."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safe_rlhf_panacea.data.raw import AUTO, CHOSEN, RawDataset, RawSample, for_objective, labels_of
from safe_rlhf_panacea.data.sources import SUFFIXES
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.hub import may_be_hub_name
from safe_rlhf_panacea.printing import say

FORM = "name[:proportion[:path]]"
Attributes = float | int | Fraction | Mapping[str, Any]
MOST_ROWS = 10**8  # taken out of one data set


@dataclass(frozen=True)
class DatasetSpec:
    """One data set of a run.

    Attributes:
        name: of the data set.
        proportion: 0.5 is a random half, 2 is every row twice, and the negative integer
            ``Fraction(-100)``, written ``100/-1``, is 100 rows.
        path: where it lies, if not at its usual place.
        objective: that its pairs are labelled for; None: the objectives that its rows name.
        data: the data set itself, if it need not be opened by its name.
    """

    name: str
    proportion: float | Fraction = 1.0
    path: str | None = None
    objective: str | None = None
    data: RawDataset | None = None

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
            proportion = str(self.proportion)[:20]
            raise UserError(
                f"data set {self.name!r}: proportion {proportion} makes over {MOST_ROWS:,} rows"
            )


Spec = str | tuple[str, Attributes] | RawDataset | DatasetSpec
Specs = str | RawDataset | DatasetSpec | Iterable[Spec] | Mapping[str, Attributes]


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


def is_place(name: str) -> bool:
    """Whether the name in a spec is a file, a folder or a hub name, not a known data set."""
    if name in RawDataset.names():
        return False
    place, _, _ = name.partition("#")
    if name.endswith((*SUFFIXES, ".parquet")) or Path(place).expanduser().exists():
        return True
    families = {cls.NAME.partition("/")[0] for cls in RawDataset.registered()}
    return "/" in place and place.partition("/")[0] not in families and may_be_hub_name(place)


def parse_dataset(string: str) -> tuple[str, dict[str, Any]]:
    """Take ``name[:proportion[:path]]`` or ``path[:proportion]`` apart.

    Returns:
        The name, and ``proportion`` and, where given, ``path``. The name of a path alone is
        ``auto``: the columns say what it holds.

    Raises:
        UserError: no name, a proportion that is no number, an empty path.
    """
    name, *rest = string.split(":", 2)
    if not name.strip():
        raise UserError(f"data set {string!r} has no name; the form is {FORM}")
    if len(rest) < 2 and is_place(name):
        name, rest = AUTO, [*(rest or ["1"]), name]
    attributes: dict[str, Any] = {"proportion": 1.0}
    if rest:
        attributes["proportion"] = _parse_proportion(rest[0].strip(), string)
    if len(rest) > 1:
        if not rest[1].strip():
            raise UserError(f"data set {string!r} has an empty path; the form is {FORM}")
        attributes["path"] = os.path.expanduser(rest[1])
    return name, attributes


def _read_spec(entry: Spec) -> DatasetSpec:
    if isinstance(entry, DatasetSpec):
        return entry
    if isinstance(entry, RawDataset):
        return DatasetSpec("rows", data=entry)
    objective: str | None = None
    if isinstance(entry, str):
        head, equals, rest = entry.partition("=")
        place = re.split("[:#]", entry, maxsplit=1)[0]
        if equals and not re.search("[:/]", head) and not Path(place).exists():
            objective, entry = head, rest
            if not head.strip():
                raise UserError(f"data set '={rest}' names no objective before the =")
        name, attributes = parse_dataset(entry)
    else:
        name, given = entry
        attributes = dict(given) if isinstance(given, Mapping) else {"proportion": given}
    unknown = set(attributes) - {"proportion", "path"}
    if unknown:
        raise UserError(
            f"data set {name!r}: unknown attribute {', '.join(sorted(unknown))}; "
            "there are proportion and path"
        )
    return DatasetSpec(name, **attributes, objective=objective)


def read_specs(specs: Specs) -> list[DatasetSpec]:
    """Read the specs of the data sets of a run, in any of their forms.

    Args:
        specs: strings ``[objective=]name[:proportion[:path]]``, Safe-RLHF's (name, attributes)
            pairs, data sets such as ``from_rows`` makes, or ``DatasetSpec``; one or many.

    Raises:
        UserError: nothing given, a malformed entry, or the same data twice.
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


class Row(NamedTuple):
    """A raw sample of a run.

    Attributes:
        where: it comes from, for messages.
        sample: itself.
        data_set: number of the data set that it is from, among those of the run.
        kind: of that data set.
    """

    where: str
    sample: RawSample
    data_set: int = 0
    kind: str = ""


def select_rows(specs: list[DatasetSpec], seed: int) -> list[Row]:
    """Read the data sets and draw the rows that their proportions ask for, without replacement.

    Raises:
        UserError: a data set cannot be read, or has no rows.
    """
    selected = []
    seeds = np.random.SeedSequence(seed).spawn(len(specs))
    for number, (spec, child) in enumerate(zip(specs, seeds, strict=True)):
        raw = spec.load()
        if len(raw) == 0:
            raise UserError(f"{spec}: no rows")
        copies, rest = divmod(spec.count(len(raw)), len(raw))
        drawn = np.random.default_rng(child).choice(len(raw), size=rest, replace=False)
        indices = [*range(len(raw))] * copies + sorted(drawn.tolist())
        samples = raw if spec.objective is None else for_objective(raw, spec.objective, str(spec))
        if is_main_process():
            _tell_format(spec, raw)
        selected += [Row(raw.where(i), samples[i], number, raw.KIND) for i in indices]
    return selected


def _tell_format(spec: DatasetSpec, raw: RawDataset) -> None:
    """Say in one line which format was recognised by its columns, and for which objectives."""
    form = getattr(raw, "seen", "")
    if not form:
        return
    names = [spec.objective] if spec.objective else sorted({n for s in raw for n in labels_of(s)})
    named = ", ".join(name for name in names if name != CHOSEN)
    what = "texts" if raw.KIND == "supervised" else raw.KIND
    for_whom = f" for {named}" if named and raw.KIND == "pairs" else ""
    say(f"{spec}: {form}, {len(raw)} {what}{for_whom}", file=sys.stderr)
