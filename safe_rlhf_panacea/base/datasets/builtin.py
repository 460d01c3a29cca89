"""The built-in raw data sets: pairs, prompts and supervised text from a path."""

from __future__ import annotations

import abc
import logging
from collections import Counter
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from safe_rlhf_panacea.base.datasets.files import SUFFIXES, Rows, read_json_rows
from safe_rlhf_panacea.base.datasets.hugging_face import read_hugging_face_rows, split_path
from safe_rlhf_panacea.base.datasets.raw import TAKEN, RawDataset, RawSample
from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.base.hub import may_be_hub_name
from safe_rlhf_panacea.errors import UserError

LOGGER = logging.getLogger(__name__)
SAME = "identical responses"
LABEL_PREFIX = "better_"
# Safe-RLHF's own fields, under the names that its two objectives have in the paper.
SAFE_RLHF_LABELS = {"better_response_id": "helpful", "safer_response_id": "harmless"}


def is_json_file(path: str) -> bool:
    """Whether a path is a JSON file; if not, it is for the package ``datasets`` to read.

    Raises:
        UserError: nothing is there, or a kind of file that nobody here can read.
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


def read_rows(path: str) -> Rows:
    """Read whatever lies at a path, or is on the hub under that name.

    Raises:
        UserError: nothing is there, it cannot be read, or it has no rows.
    """
    if is_json_file(path):
        return read_json_rows(split_path(path)[0])
    return read_hugging_face_rows(path)


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must be text and not blank."""
    value = row.get(field)
    if value is None:
        raise UserError(f"{where}: no field {field!r}; the row has: {', '.join(map(str, row))}")
    if not isinstance(value, str):
        raise UserError(f"{where}: {field} is {type(value).__name__}; it is a string")
    if not value.strip():
        raise UserError(f"{where}: {field} is blank; write some text or leave out the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {field} has half a surrogate pair; it is Unicode text") from None
    return value


def prompt_field(row: dict[str, Any], where: str) -> str | list[str]:
    """The field ``prompt``: text, or turns that alternate user, assistant, ..., user."""
    turns = row.get("prompt")
    if not isinstance(turns, list):
        return text_field(row, "prompt", where)
    if len(turns) % 2 == 0:
        raise UserError(
            f"{where}: prompt has {len(turns)} turns; it has an odd number, ending with the user's"
        )
    return [text_field({"prompt": turn}, "prompt", where) for turn in turns]


def prompt_fields(row: dict[str, Any], where: str) -> RawSample:
    """``prompt``, and ``system`` where the row has one."""
    sample: RawSample = {"input": prompt_field(row, where)}
    if row.get("system") not in (None, ""):
        sample["system"] = text_field(row, "system", where)
    return sample


def label_value(value: Any, field: str, where: str) -> int | None:
    """0 or 1, the index of the better response, or None where it is unknown."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's too
    if value is None or (is_number and value != value):  # tables write a missing number as NaN
        return None
    if not is_number or value not in (0, 1):
        raise UserError(
            f"{where}: {field} is {value!r}; it is 0 or 1, the better response, or null"
        )
    return int(value)


def read_labels(row: dict[str, Any], where: str) -> dict[str, int | None]:
    """All labels of a row of pairs, by objective."""
    labels: dict[str, int | None] = {}
    for field, value in row.items():
        if field in SAFE_RLHF_LABELS:
            labels.setdefault(SAFE_RLHF_LABELS[field], label_value(value, field, where))
        elif field.startswith(LABEL_PREFIX) and field != LABEL_PREFIX:
            labels[field.removeprefix(LABEL_PREFIX)] = label_value(value, field, where)
    return labels


class FileDataset(RawDataset):
    """A raw data set whose rows come from a path; a subclass says how to read one row."""

    def __init__(self, path: str | None = None) -> None:
        """Read and check all rows.

        Args:
            path: a ``.jsonl`` or ``.json`` file, plain, gzipped or xz; a ``.parquet`` file; a
                folder that ``datasets`` can read; or a data set on the hub. The last two may
                end in ``#split``.

        Raises:
            UserError: with file and line (or row).
        """
        if path is None:
            raise UserError(f"data set {self.NAME!r} needs a path: {self.NAME}:1:file.jsonl")
        self.table = read_rows(path)
        self.samples = [
            self.convert(row, self.table.where(index)) for index, row in enumerate(self.table.rows)
        ]
        self.table.rows.clear()  # the samples hold all that is needed

    @abc.abstractmethod
    def convert(self, row: dict[str, Any], where: str) -> RawSample:
        """Check a row and make it a sample."""

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, index: int) -> str:
        return self.table.where(index)


class PairsDataset(FileDataset):
    """Pairs: ``prompt``, ``system``, ``response_0``, ``response_1``, ``better_<objective>``.

    A label is 0 or 1, the better response, or null or absent, as ``system`` may be. Safe-RLHF's
    ``better_response_id`` and ``safer_response_id`` count as ``helpful`` and ``harmless``. A pair
    whose two responses are the same text is left out.

    Attributes:
        rows_read: rows of the table.
        left_out: how many of them are no sample, by reason.
    """

    NAME: ClassVar[str] = "pairs"
    KIND: ClassVar[str] = "pairs"

    def __init__(self, path: str | None = None) -> None:
        """Read the pairs, and say how many are left out.

        Raises:
            UserError: as ``FileDataset``, or all are left out.
        """
        super().__init__(path)
        whole, self.rows_read = self.samples, len(self.samples)
        self.places = [i for i, s in enumerate(whole) if s["answer"] != s["other_answer"]]
        self.samples = [whole[i] for i in self.places]
        self.left_out = Counter({SAME: self.rows_read - len(self.samples)})
        if not self.samples:
            raise UserError(f"{path}: all of its {self.rows_read} pairs have {SAME}")
        if self.left_out[SAME] and is_main_process():
            told = f"{self.left_out[SAME]} ({SAME})"
            LOGGER.warning("%s: left out of %d pairs: %s", path, self.rows_read, told)

    def convert(self, row: dict[str, Any], where: str) -> RawSample:
        return {
            **prompt_fields(row, where),
            "answer": text_field(row, "response_0", where),
            "other_answer": text_field(row, "response_1", where),
            "labels": read_labels(row, where),
        }

    def where(self, index: int) -> str:
        return self.table.where(self.places[index])


class ChosenDataset(PairsDataset):
    """Pairs as supervised text: the response that a pair's labels prefer.

    A pair without a label, or whose labels disagree, is left out.
    """

    NAME: ClassVar[str] = "chosen"
    KIND: ClassVar[str] = "supervised"

    def __init__(self, path: str | None = None) -> None:
        """Read the pairs.

        Raises:
            UserError: as ``FileDataset``, or no pair has a response that is chosen.
        """
        super().__init__(path)
        found = [(i, self._chosen(s)) for i, s in zip(self.places, self.samples, strict=True)]
        self.places = [i for i, sample in found if sample is not None]
        self.samples = [sample for _, sample in found if sample is not None]
        if not self.samples:
            raise UserError(f"{path}: no pair has a label, or labels that agree")

    @staticmethod
    def _chosen(sample: RawSample) -> RawSample | None:
        better = {value for value in sample["labels"].values() if value is not None}
        if len(better) != 1:
            return None
        answer = sample["other_answer"] if better == {1} else sample["answer"]
        kept: RawSample = {**sample, "answer": answer}
        del kept["other_answer"], kept["labels"]
        return kept


class PromptsDataset(FileDataset):
    """Prompts: ``prompt``, and ``system`` where there is a system prompt.

    Further columns are kept for reward functions that ask for them; none has a name of ``TAKEN``.
    """

    NAME: ClassVar[str] = "prompts"
    KIND: ClassVar[str] = "prompts"

    def convert(self, row: dict[str, Any], where: str) -> RawSample:
        if taken := sorted(TAKEN.intersection(row)):
            raise UserError(
                f"{where}: the column {taken[0]!r} has a name under which reward functions get "
                "something else: rename it"
            )
        further = {name: row[name] for name in row if name not in ("prompt", "system")}
        return {**further, **prompt_fields(row, where)}  # type: ignore[typeddict-item]


class SupervisedTextDataset(FileDataset):
    """Supervised text: ``prompt``, ``response``, and ``system`` where there is one."""

    NAME: ClassVar[str] = "supervised"
    KIND: ClassVar[str] = "supervised"

    def convert(self, row: dict[str, Any], where: str) -> RawSample:
        return {**prompt_fields(row, where), "answer": text_field(row, "response", where)}
