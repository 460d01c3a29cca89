"""Samples made from the rows of a table; rows of no use are left out, counted and told."""

from __future__ import annotations

import abc
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.data.fields import LeaveOut, Row
from safe_rlhf_panacea.data.raw import RawDataset, RawSample
from safe_rlhf_panacea.data.source import Source
from safe_rlhf_panacea.errors import UserError

LOGGER = logging.getLogger(__name__)
Numbered = Iterable[tuple[int, Any]]  # rows, or what is made of them, with a row's number


def each_row(rows: Numbered) -> Numbered:
    """Every row is a unit of its own."""
    return rows


@dataclass(frozen=True)
class Format:
    """What the rows of a table are called by, what they hold, and how samples are made of them.

    Attributes:
        name: for messages.
        kind: of its samples: ``pairs``, ``prompts`` or ``supervised``.
        fields: what every row must have; all other fields are ignored.
        convert: makes a sample, or a list of them, of a unit. It raises ``LeaveOut`` where the
            unit is of no use, and ``UserError`` where it is something else than this format.
        regroup: makes the units of the numbered rows, each with the number of the row that it
            begins at; unless given, a row is a unit.
        objectives: that label its pairs, where they are known before it is read.
    """

    name: str
    kind: str
    fields: tuple[str, ...]
    convert: Callable[[Any], RawSample | list[RawSample]]
    regroup: Callable[[Numbered], Numbered] = each_row
    objectives: tuple[str, ...] = ()


class TableDataset(RawDataset):
    """A data set that ``read`` fills from a table.

    Attributes:
        rows_read: rows of the table.
        left_out: how many of them (or of the units made from them) are no sample, by reason.
    """

    @abc.abstractmethod
    def format_of(self, first: Row) -> Format:
        """The format of a table that begins with this row.

        Raises:
            UserError: it has none that this data set reads.
        """

    def read(self, source: Source, told: str) -> None:
        """Go through all rows once.

        Args:
            source: the rows.
            told: what to call the data set in messages.

        Raises:
            UserError: a row has another schema (with file and row), or no row is of use.
        """
        self._where = source.where
        self.samples: list[RawSample] = []
        self._row_of = array("q")  # the row that each sample begins at
        self.left_out: Counter[str] = Counter()
        self.rows_read = 0
        rows = iter(source.rows)
        first = next(rows, None)
        if first is None:
            raise UserError(f"{told}: no rows")
        try:
            self.format = self.format_of(first)
        except UserError as error:
            raise UserError(f"{source.where(0)}: {error}") from None
        for index, unit in self.format.regroup(self._counted(chain([first], rows))):
            self._add(index, unit)
        self._tell(told)

    def _counted(self, rows: Iterable[Row]) -> Numbered:
        for index, row in enumerate(rows):
            self.rows_read += 1
            for field in self.format.fields:
                if field not in row:
                    raise UserError(
                        f"{self._where(index)}: no field {field!r}; the row has: "
                        f"{', '.join(map(str, row))}; {self.format.name} needs "
                        f"{', '.join(self.format.fields)}"
                    )
            yield index, row

    def _add(self, index: int, unit: Any) -> None:
        try:
            made = self.format.convert(unit)
        except LeaveOut as reason:
            self.left_out[str(reason)] += 1
        except UserError as error:
            raise UserError(f"{self._where(index)}: {error}") from None
        else:
            samples = made if isinstance(made, list) else [made]
            self.samples += samples
            self._row_of.extend([index] * len(samples))

    def _tell(self, told: str) -> None:
        reasons = ", ".join(f"{count} ({why})" for why, count in self.left_out.most_common())
        if not self.samples:
            why = f": {reasons}" if reasons else ""
            raise UserError(f"{told}: nothing of use in {self.rows_read} rows{why}")
        if reasons and is_main_process():
            counts = (self.rows_read, len(self.samples))
            LOGGER.warning("%s: %d rows gave %d samples; left out: %s", told, *counts, reasons)

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, index: int) -> str:
        return self._where(self._row_of[index])
