"""The base of all readers of published data sets."""

from __future__ import annotations

import abc
import logging
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from safe_rlhf_panacea.base.datasets.fields import LeaveOut, Row
from safe_rlhf_panacea.base.datasets.raw import RawDataset, RawSample
from safe_rlhf_panacea.base.datasets.source import Part, Source, open_hub, open_path
from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError

LOGGER = logging.getLogger(__name__)


class PublishedDataset(RawDataset):
    """A part of a data set on the hub; a subclass says how to make samples of its rows.

    Rows that are of no use are left out and counted, and one line says so.

    Attributes:
        rows_read: rows of the table.
        left_out: how many of them (or of the pairs made from them) are no sample, by reason.
    """

    HUB: ClassVar[str]
    """``owner/name``."""
    REVISION: ClassVar[str | None] = None
    """A branch, tag or commit; None is the newest."""
    LICENCE: ClassVar[str]
    PART: ClassVar[Part]
    """The split, and the folder it is in."""
    FIELDS: ClassVar[tuple[str, ...]]
    """What every row must have; all other fields are ignored."""

    def __init__(self, path: str | None = None) -> None:
        """Read all rows.

        Args:
            path: a copy: one JSON or Parquet file, a folder with the hub's layout or saved
                with ``save_to_disk``, or another data set of the hub. Nothing is the hub.

        Raises:
            UserError: it cannot be had, has another schema (with file and row), or no row of
                it is of use.
        """
        source = self._open(path)
        self._where = source.where
        self.samples: list[RawSample] = []
        self._row_of = array("q")  # the row that each sample begins at
        self.left_out: Counter[str] = Counter()
        self.rows_read = 0
        for index, unit in self.regroup(self._counted(source.rows)):
            self._add(index, unit)
        self._tell(path)

    def _open(self, path: str | None) -> Source:
        if path is not None:
            return open_path(path, self.PART)
        try:
            return open_hub(self.HUB, self.PART, self.REVISION)
        except UserError as error:
            raise UserError(f"{error}; a copy can be given as {self.NAME}:1:PATH") from error

    def _counted(self, rows: Iterable[Row]) -> Iterable[tuple[int, Row]]:
        for index, row in enumerate(rows):
            self.rows_read += 1
            for field in self.FIELDS:
                if field not in row:
                    raise UserError(
                        f"{self._where(index)}: no field {field!r}; {self.NAME} has "
                        f"{', '.join(self.FIELDS)}, the row: {', '.join(map(str, row))}"
                    )
            yield index, row

    def _add(self, index: int, unit: Any) -> None:
        try:
            self.samples.append(self.convert(unit))
            self._row_of.append(index)
        except LeaveOut as reason:
            self.left_out[str(reason)] += 1
        except UserError as error:
            raise UserError(f"{self._where(index)}: {error}") from None

    def _tell(self, path: str | None) -> None:
        source = f"{self.NAME} ({path})" if path else self.NAME
        told = ", ".join(f"{count} ({reason})" for reason, count in self.left_out.most_common())
        if not self.samples:
            why = f": {told}" if told else ""
            raise UserError(f"{source}: nothing of use in {self.rows_read} rows{why}")
        if told and is_main_process():
            LOGGER.warning(
                "%s: %d rows gave %d samples; left out: %s",
                source,
                self.rows_read,
                len(self.samples),
                told,
            )

    def regroup(self, rows: Iterable[tuple[int, Row]]) -> Iterable[tuple[int, Any]]:
        """What makes one sample each, with the row it begins at: the rows, unless overridden."""
        return rows

    @abc.abstractmethod
    def convert(self, unit: Any) -> RawSample:
        """Make a sample of what ``regroup`` yields.

        Raises:
            LeaveOut: it is of no use.
            UserError: it has another schema.
        """

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, index: int) -> str:
        return self._where(self._row_of[index])
