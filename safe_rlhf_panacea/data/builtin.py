"""Data sets of the user's own: from a path, from the hub, or from Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

from safe_rlhf_panacea.data.fields import LeaveOut, Row
from safe_rlhf_panacea.data.files import Rows
from safe_rlhf_panacea.data.formats import FORMATS, RANKED, format_of
from safe_rlhf_panacea.data.own import PAIRS, PROMPTS, SUPERVISED
from safe_rlhf_panacea.data.raw import (
    AUTO,
    OF_ANSWERS,
    RawDataset,
    RawSample,
    for_objective,
    without,
)
from safe_rlhf_panacea.data.reader import Format, TableDataset
from safe_rlhf_panacea.data.source import Source, open_path
from safe_rlhf_panacea.errors import UserError


class FileDataset(TableDataset):
    """A data set in one of the formats of ``FORMATS``; a subclass says which of them it takes.

    Attributes:
        seen: the name of the table's format where its columns told it, else ``""``.
    """

    OWN: ClassVar[Format]
    """The format of this package that its samples are named for."""
    seen = ""

    def __init__(self, path: str | None = None, *, rows: Iterable[Row] | None = None) -> None:
        """Read and check all rows.

        Args:
            path: a ``.jsonl`` or ``.json`` file, plain, gzipped or xz; a ``.parquet`` file; a
                folder that ``datasets`` can read; or a data set on the hub. The last two may
                end in ``#split``.
            rows: in place of a path, the rows themselves.

        Raises:
            UserError: with file and line (or row).
        """
        if rows is not None:
            self.read(Source(_dicts(rows), Rows("rows", []).where), "rows")
        elif path is None:
            raise UserError(f"data set {self.NAME!r} needs a path: {self.NAME}:1:file.jsonl")
        else:
            self.read(open_path(path), path)

    def format_of(self, first: Row) -> Format:
        form = self.choose(first)
        if self.NAME == AUTO or form.name not in {PAIRS.name, PROMPTS.name, SUPERVISED.name}:
            self.seen = form.name
        return form

    def choose(self, first: Row) -> Format:
        """The format of a table that begins with this row."""
        form = format_of(first, self.OWN.kind)
        other = form or format_of(first, "pairs", "supervised")
        if form is None and other is not None:
            they = {"pairs": "pairs; chosen", "supervised": "supervised texts; supervised"}
            raise UserError(f"{other.name} are {they[other.kind]}:1:PATH reads them")
        return form or self.OWN


def _dicts(rows: Iterable[Any]) -> Iterator[Row]:
    if hasattr(rows, "keys"):
        kind = type(rows).__name__
        raise UserError(f"rows is {kind}; it is an iterable of dictionaries, such as one split")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"rows, row {index + 1}: {type(row).__name__}; a row is a dictionary")
        yield row


class PairsDataset(FileDataset):
    """Pairs: ``prompt``, ``system``, ``response_0``, ``response_1``, ``better_<objective>``.

    A label is 0 or 1, the better response, or null or absent, as ``system`` may be. Safe-RLHF's
    ``better_response_id`` and ``safer_response_id`` count as ``helpful`` and ``harmless``. A pair
    whose two responses are the same text is left out. Pairs of other formats, of which one response
    is better on the whole, have the label ``CHOSEN``.
    """

    NAME: ClassVar[str] = "pairs"
    KIND: ClassVar[str] = "pairs"
    OWN = PAIRS


class ChosenDataset(FileDataset):
    """Pairs as supervised text: the response that a pair's labels prefer.

    A pair without a label, or whose labels disagree, is left out.
    """

    NAME: ClassVar[str] = "chosen"
    KIND: ClassVar[str] = "supervised"
    OWN = PAIRS

    def choose(self, first: Row) -> Format:
        form = super().choose(first)
        return replace(form, convert=lambda unit: _chosen(form.convert(unit)))


def _chosen(sample: Any) -> RawSample:
    better = {value for value in sample["labels"].values() if value is not None}
    if len(better) != 1:
        raise LeaveOut("no label, or labels that disagree")
    answer = sample["other_answer"] if better == {1} else sample["answer"]
    return {**without(sample, OF_ANSWERS), "answer": answer}


class PromptsDataset(FileDataset):
    """Prompts: ``prompt``, and ``system`` where there is a system prompt.

    Further columns are kept for reward functions that ask for them; none has a name of ``TAKEN``.
    Of pairs and conversations without ``prompt``, the prompts are taken.
    """

    NAME: ClassVar[str] = "prompts"
    KIND: ClassVar[str] = "prompts"
    OWN = PROMPTS

    def choose(self, first: Row) -> Format:
        form = format_of(first, "pairs", "supervised")
        if form is None or ("prompt" in first and form is not RANKED):
            return PROMPTS
        return replace(form, convert=lambda unit: _asked(form.convert(unit)))


def _asked(made: RawSample | list[RawSample]) -> RawSample:
    sample = made[-1] if isinstance(made, list) else made
    return without(sample, OF_ANSWERS)


class SupervisedTextDataset(FileDataset):
    """Supervised text: ``prompt``, ``response``, and ``system`` where there is one."""

    NAME: ClassVar[str] = "supervised"
    KIND: ClassVar[str] = "supervised"
    OWN = SUPERVISED


class AnyDataset(FileDataset):
    """Whatever the columns of the first row say: pairs, supervised text or prompts."""

    NAME: ClassVar[str] = AUTO

    def choose(self, first: Row) -> Format:
        form = format_of(first, "pairs", "supervised", "prompts")
        if form is None:
            known = ", ".join(form.name for form in FORMATS)
            columns = ", ".join(map(str, first))
            raise UserError(f"the columns {columns} are of no format that is read: {known}")
        self.KIND = form.kind  # type: ignore[misc]  # of this one; other kinds have it for all
        return form


def from_rows(rows: Iterable[Row], kind: str = AUTO, objective: str | None = None) -> RawDataset:
    """Make a data set of rows in memory, which the tokenised data sets take in place of a name.

    Args:
        rows: dictionaries, in a format of ``FORMATS``: a list, a ``datasets.Dataset``, or any
            other iterable, which is gone through once.
        kind: ``pairs``, ``prompts``, ``supervised``, ``chosen``, or ``auto``: as the columns say.
        objective: of pairs, the one that their labels are for; None: as the rows say.

    Raises:
        UserError: with the number of the row, or no row is of use.
    """
    kinds = {cls.NAME: cls for cls in FileDataset.__subclasses__()}
    if kind not in kinds:
        raise UserError(f"unknown kind of data {kind!r}; there are: {', '.join(sorted(kinds))}")
    data = kinds[kind](rows=rows)
    if objective is not None:
        data.samples = for_objective(data.samples, objective, "rows")
    return data
