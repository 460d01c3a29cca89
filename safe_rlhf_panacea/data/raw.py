"""Raw data sets: samples as text behind a name, and how rows of a table become samples."""

from __future__ import annotations

import abc
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, ClassVar, NamedTuple, TypedDict

from torch.utils.data import Dataset

from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError

LOGGER = logging.getLogger(__name__)
AUTO = "auto"  # the data set whose columns say what it holds
CHOSEN = "chosen"  # the label of pairs that do not name the objective of their label
# Safe-RLHF's flags of a sample, and its fields of a row: the objectives that they label.
SAFE_RLHF_FLAGS = {"better": "helpful", "safer": "harmless"}
SAFE_RLHF_LABELS = {"better_response_id": "helpful", "safer_response_id": "harmless"}
# The fields of a sample that belong to its answers, not to its prompt.
OF_ANSWERS = frozenset({"answer", "other_answer", "labels", "better", "safer"})


class RawSample(TypedDict, total=False):
    """One sample as text.

    Prompts have ``input``, supervised text also ``answer``, and pairs ``other_answer`` and labels.
    """

    input: str | list[str]  # the user's text, or turns that alternate user, assistant, ..., user
    system: str
    answer: str
    other_answer: str
    # by objective, which answer is better: 0 answer, 1 other_answer, None unknown
    labels: dict[str, int | None]
    better: bool  # Safe-RLHF's way to say that answer is better for the objective helpful
    safer: bool  # and for the objective harmless


def without(sample: Mapping[str, Any], names: Collection[str]) -> Any:
    """A sample or a row without some fields; Any, as types cannot follow computed names."""
    return {name: value for name, value in sample.items() if name not in names}


def label_value(value: Any, field: str) -> int | None:
    """0 or 1, the index of the better response, or None where it is unknown."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's too
    if value is None or (is_number and value != value):  # tables write a missing number as NaN
        return None
    if not is_number or value not in (0, 1):
        raise UserError(f"{field} is {value!r}; it is 0 or 1, the better response, or null")
    return int(value)


def labels_of(sample: RawSample, where: str = "a pair") -> dict[str, int | None]:
    """Which answer of a pair is better, by objective, also by Safe-RLHF's flags.

    The ``UserError`` of a label that is not 0, 1 or None, or of a flag, begins with ``where``.
    """
    given = sample.get("labels", {})
    labels = {name: label_value(value, f"{where}: label {name!r}") for name, value in given.items()}
    for flag, objective in SAFE_RLHF_FLAGS.items():
        if flag in sample:
            value = sample.get(flag)
            if value not in (True, False):
                raise UserError(f"{where}: {flag} is {value!r}; it is true or false")
            labels.setdefault(objective, 0 if value else 1)
    return labels


def labels_for(sample: RawSample, *objectives: str, where: str = "a pair") -> list[int | None]:
    """The labels of some objectives; a single objective may take the label ``CHOSEN``."""
    labels = labels_of(sample, where)
    if len(objectives) == 1 and CHOSEN in labels:
        labels.setdefault(objectives[0], labels[CHOSEN])
    return [labels.get(name) for name in objectives]


def for_objective(samples: Iterable[RawSample], objective: str, told: str) -> list[RawSample]:
    """Pairs with the labels of one objective only; ``told`` is what messages call the data."""
    result: list[RawSample] = []
    others: set[str] = set()
    for sample in samples:
        if "other_answer" not in sample:
            raise UserError(f"{told}: no pairs, so {objective!r} has no label there")
        (label,) = labels_for(sample, objective)
        result.append({**without(sample, SAFE_RLHF_FLAGS), "labels": {objective: label}})
        others |= labels_of(sample).keys()
    if all(sample["labels"][objective] is None for sample in result):
        there = ", ".join(sorted(others)) or "none"
        raise UserError(f"{told}: no pair has a label for {objective!r}; labels there: {there}")
    return result


class RawDataset(Dataset[RawSample]):
    """Base of all raw data sets; a subclass with a ``NAME`` registers itself.

    Its constructor takes ``path: str | None = None``, as in ``name:proportion:path``.
    """

    NAME: ClassVar[str]  # on the command line
    ALIASES: ClassVar[Collection[str]] = ()  # other names of the same data set
    KIND: ClassVar[str] = ""  # of its samples: pairs, prompts or supervised
    OBJECTIVES: ClassVar[tuple[str, ...]] = ()  # that label its pairs, where known beforehand
    seen = ""  # the name of the format that its columns told

    registry: ClassVar[dict[str, type[RawDataset]]] = {}  # by name and by alias

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Register the class under its name and aliases."""
        super().__init_subclass__(**kwargs)
        if "NAME" not in cls.__dict__:
            return
        names = [cls.NAME, *cls.__dict__.get("ALIASES", ())]
        for name in names:
            if not isinstance(name, str) or not name or ":" in name:
                raise ValueError(f"{name!r} is no name for a data set: a string without colons is")
            if name in RawDataset.registry or names.count(name) > 1:
                raise ValueError(f"there is already a data set named {name!r}")
        RawDataset.registry.update(dict.fromkeys(names, cls))

    @staticmethod
    def registered() -> list[type[RawDataset]]:
        """The classes of all data sets that have a name, sorted by it."""
        return sorted(set(RawDataset.registry.values()), key=lambda cls: cls.NAME)

    @staticmethod
    def load(name: str, /, path: str | None = None) -> RawDataset:
        """Open a data set by name; the ``UserError`` of an unknown one lists those that exist."""
        if name not in RawDataset.registry:
            known = ", ".join(cls.NAME for cls in RawDataset.registered())
            raise UserError(
                f"unknown data set {name!r}; there are: {known}; a file, a folder or a data set of "
                f"the hub is given as {AUTO}:1:{name}"
            )
        cls = RawDataset.registry[name]
        return cls() if path is None else cls(path=path)  # type: ignore[call-arg]  # see above

    make = load  # Safe-RLHF's name

    @abc.abstractmethod
    def __getitem__(self, index: int) -> RawSample:
        """One sample."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def __iter__(self) -> Iterator[RawSample]:
        return (self[index] for index in range(len(self)))

    def where(self, index: int) -> str:
        """Where a sample comes from, for messages."""
        return f"data set {self.NAME!r}, row {index + 1}"


Row = dict[str, Any]
Numbered = Iterable[tuple[int, Any]]  # rows, or units made of them, each with its row's number


class Source(NamedTuple):
    """Rows to be gone through once, and the place of each by its index, for messages."""

    rows: Iterable[Row]
    where: Callable[[int], str]


class LeaveOut(Exception):
    """A row is of no use; the message is the reason, counted over all rows."""


def reasons(left_out: Counter[str]) -> str:
    """How many rows were left out for which reason, for messages; the most frequent first."""
    return ", ".join(f"{count} ({why})" for why, count in left_out.most_common())


@dataclass(frozen=True)
class Format:
    """The columns of a table, and how samples are made of its rows.

    ``convert`` makes a sample, or a list of them, of a unit, which is a row, or what ``regroup``
    makes of numbered rows. Of a unit of no use it raises ``LeaveOut``, of one that is not in this
    format ``UserError``.
    """

    name: str
    kind: str  # of the samples: pairs, prompts or supervised
    fields: tuple[str, ...]  # that every row must have; all others are ignored
    convert: Callable[[Any], RawSample | list[RawSample]]
    regroup: Callable[[Numbered], Numbered] | None = None
    objectives: tuple[str, ...] = ()  # that label its pairs, where known beforehand


class TableDataset(RawDataset):
    """A data set that ``read`` fills from a table."""

    samples: list[RawSample]  # what was made of the rows
    rows_read: int  # rows of the table
    left_out: Counter[str]  # how many rows, or units of them, are no sample, by reason

    @abc.abstractmethod
    def format_of(self, first: Row) -> Format:
        """The format of a table that begins with this row; ``UserError`` if it has none."""

    def read(self, source: Source, told: str) -> None:
        """Go through all rows once; ``told`` is what messages call the data set."""
        self._where = source.where
        self._row_of = array("q")  # the row that each sample begins at
        self.samples, self.left_out, self.rows_read = [], Counter(), 0
        rows = iter(source.rows)
        first = next(rows, None)
        if first is None:
            raise UserError(f"{told}: no rows")
        try:
            form = self.format_of(first)
        except UserError as error:
            raise UserError(f"{source.where(0)}: {error}") from None
        units = self._counted(chain([first], rows), form)
        for index, unit in form.regroup(units) if form.regroup else units:
            try:
                made = form.convert(unit)
            except LeaveOut as reason:
                self.left_out[str(reason)] += 1
                continue
            except UserError as error:
                raise UserError(f"{source.where(index)}: {error}") from None
            samples = made if isinstance(made, list) else [made]
            self.samples += samples
            self._row_of.extend([index] * len(samples))
        why = reasons(self.left_out)
        if not self.samples:
            raise UserError(f"{told}: nothing of use in {self.rows_read} rows: {why}")
        if why and is_main_process():
            counts = (self.rows_read, len(self.samples))
            LOGGER.warning("%s: %d rows gave %d samples; left out: %s", told, *counts, why)

    def _counted(self, rows: Iterable[Row], form: Format) -> Numbered:
        """The rows with their numbers; each must have the format's fields."""
        for index, row in enumerate(rows):
            self.rows_read += 1
            for field in form.fields:
                if field not in row:
                    raise UserError(
                        f"{self._where(index)}: no field {field!r}; the row has: "
                        f"{', '.join(map(str, row))}; {form.name} needs {', '.join(form.fields)}"
                    )
            yield index, row

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, index: int) -> str:
        return self._where(self._row_of[index])
