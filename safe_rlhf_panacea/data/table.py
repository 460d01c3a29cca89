"""Samples made from the rows of a table: formats, fields, and the reading of all rows.

A field that is absent or of another type means that the file is not in the format: a ``UserError``.
A field that holds nothing usable is common in published data: ``LeaveOut``, and the row is left out
and counted.
"""

from __future__ import annotations

import abc
import logging
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from safe_rlhf_panacea.data.raw import RawDataset, RawSample
from safe_rlhf_panacea.data.sources import Row, Source
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError

LOGGER = logging.getLogger(__name__)
Numbered = Iterable[tuple[int, Any]]  # rows, or units made of them, each with its row's number


class LeaveOut(Exception):
    """A row is of no use; the message is the reason, counted over all rows."""


@dataclass(frozen=True)
class Format:
    """The columns of a table, and how samples are made of its rows.

    Attributes:
        name: for messages.
        kind: of its samples: ``pairs``, ``prompts`` or ``supervised``.
        fields: that every row must have; all other fields are ignored.
        convert: makes a sample, or a list of them, of a unit. It raises ``LeaveOut`` where the
            unit is of no use, and ``UserError`` where it is not in this format.
        regroup: makes the units of the numbered rows, each with the number of the row that it
            begins at; None: a row is a unit.
        objectives: that label its pairs, where they are known before it is read.
    """

    name: str
    kind: str
    fields: tuple[str, ...]
    convert: Callable[[Any], RawSample | list[RawSample]]
    regroup: Callable[[Numbered], Numbered] | None = None
    objectives: tuple[str, ...] = ()


class TableDataset(RawDataset):
    """A data set that ``read`` fills from a table.

    Attributes:
        rows_read: rows of the table.
        left_out: how many of them (or of the units made from them) are no sample, by reason.
    """

    @abc.abstractmethod
    def format_of(self, first: Row) -> Format:
        """The format of a table that begins with this row; ``UserError`` if it has none."""

    def read(self, source: Source, told: str) -> None:
        """Go through all rows once.

        Args:
            source: the rows.
            told: what to call the data set in messages.

        Raises:
            UserError: a row is not in the format (with file and row), or no row is of use.
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
        units = self._counted(chain([first], rows))
        for index, unit in self.format.regroup(units) if self.format.regroup else units:
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


# -- fields -------------------------------------------------------------------------------


def required(row: Any, field: str) -> Any:
    """A field that the format has, whatever it holds; also of an object within a row.

    Raises:
        UserError: there is no such field, or no object.
    """
    if not isinstance(row, dict):
        raise UserError(f"{type(row).__name__} where an object with the field {field!r} belongs")
    if field not in row:
        raise UserError(f"no field {field!r}; there are: {', '.join(map(str, row))}")
    return row[field]


def text(row: Row, field: str, what: str) -> str:
    """A field of text; ``what`` is its name in the reasons: prompt, response.

    Raises:
        UserError: absent or no text.
        LeaveOut: null, blank, or not to be encoded.
    """
    value = required(row, field)
    if value is None:
        raise LeaveOut(f"blank {what}")
    if not isinstance(value, str):
        raise UserError(f"{field} is {type(value).__name__}; it is a string")
    return usable(value, what)


def usable(value: str, what: str) -> str:
    """The text itself, if it can be used.

    Raises:
        LeaveOut: blank, or half a surrogate pair, which no tokenizer takes.
    """
    if not value.strip():
        raise LeaveOut(f"blank {what}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LeaveOut(f"broken Unicode in the {what}") from None
    return value


def number(value: Any, field: str) -> float | None:
    """A finite number, or None where there is none; ``UserError`` for anything but a number."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UserError(f"{field} is {value!r}; it is a number or null")
    return float(value) if math.isfinite(value) else None


def choice(row: Row, field: str) -> int | None:
    """The index of the better response, or None where the field has neither 0 nor 1."""
    value = number(row[field], field)
    return int(value) if value in (0, 1) else None


def higher(one: float | None, other: float | None) -> int | None:
    """Which of two ratings is higher: 0, 1, or None for a tie or a missing one."""
    if one is None or other is None or one == other:
        return None
    return 0 if one > other else 1


def pair(
    prompt: str | list[str], answer: str, other_answer: str, labels: dict[str, int | None]
) -> RawSample:
    """The sample of a pair.

    Raises:
        LeaveOut: both responses are the same, or no objective prefers one of them.
    """
    if answer == other_answer:
        raise LeaveOut("identical responses")
    if all(label is None for label in labels.values()):
        raise LeaveOut("tied or unlabelled on every objective")
    return {"input": prompt, "answer": answer, "other_answer": other_answer, "labels": labels}
