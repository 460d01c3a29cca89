"""The user's own data: from a path, from the hub, or from Python.

This package's own formats are strict, since whoever wrote a row can mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from safe_rlhf_panacea.data.conversation import in_turn, is_dialogue, said
from safe_rlhf_panacea.data.formats import (
    RANKED,
    SUPERVISED_FORMATS,
    THEIR_PAIRS,
    is_ranked,
    of_columns,
)
from safe_rlhf_panacea.data.raw import (
    AUTO,
    OF_ANSWERS,
    SAFE_RLHF_LABELS,
    TAKEN,
    RawDataset,
    RawSample,
    for_objective,
    label_value,
    without,
)
from safe_rlhf_panacea.data.sources import Row, Source, open_path, rows_place
from safe_rlhf_panacea.data.table import Format, LeaveOut, TableDataset
from safe_rlhf_panacea.errors import UserError

LABEL_PREFIX = "better_"


def text_field(row: Row, field: str) -> str:
    """A field that must be text and not blank."""
    value = row.get(field)
    if value is None:
        raise UserError(f"no field {field!r}; the row has: {', '.join(map(str, row))}")
    if not isinstance(value, str):
        raise UserError(f"{field} is {type(value).__name__}; it is a string")
    if not value.strip():
        raise UserError(f"{field} is blank; write some text or leave out the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{field} has half a surrogate pair; it is Unicode text") from None
    return value


def prompt_fields(row: Row) -> RawSample:
    """The input of a row of ``prompt``, and ``system`` where there is one.

    The prompt is text, turns that alternate user, assistant, ..., user, messages, or a dialogue in
    one text.
    """
    prompt = row.get("prompt")
    turns = prompt if isinstance(prompt, list) else [prompt]
    if is_dialogue(prompt) or (turns and isinstance(turns[0], dict)):
        conversation = in_turn(said(prompt, "prompt"), row.get("system"))
        _check_turns(len(conversation.turns))
        return conversation.prompt(len(conversation.turns))
    _check_turns(len(turns))
    texts = [text_field({**row, "prompt": turn}, "prompt") for turn in turns]
    sample: RawSample = {"input": texts if isinstance(prompt, list) else texts[0]}
    if row.get("system") not in (None, ""):
        sample["system"] = text_field(row, "system")
    return sample


def _check_turns(count: int) -> None:
    if count % 2 == 0:
        raise UserError(f"prompt has {count} turns; it has an odd number, ending with the user's")


def read_labels(row: Row) -> dict[str, int | None]:
    """All labels of a row of pairs, by objective."""
    labels: dict[str, int | None] = {}
    for field, value in row.items():
        if field in SAFE_RLHF_LABELS:
            labels.setdefault(SAFE_RLHF_LABELS[field], label_value(value, field))
        elif field.startswith(LABEL_PREFIX) and field != LABEL_PREFIX:
            labels[field.removeprefix(LABEL_PREFIX)] = label_value(value, field)
    return labels


def own_pair(row: Row) -> RawSample:
    """A pair of two responses, with all its labels, of which there may be none."""
    sample: RawSample = {
        **prompt_fields(row),
        "answer": text_field(row, "response_0"),
        "other_answer": text_field(row, "response_1"),
        "labels": read_labels(row),
    }
    if sample["answer"] == sample["other_answer"]:
        raise LeaveOut("identical responses")
    return sample


def own_prompt(row: Row) -> RawSample:
    """A prompt, and its further columns for reward functions that ask for them."""
    if taken := sorted(TAKEN.intersection(row)):
        raise UserError(
            f"the column {taken[0]!r} has a name under which reward functions get something else: "
            "rename it"
        )
    further = without(row, ("prompt", "system"))
    sample = prompt_fields(row)
    if isinstance(row["prompt"], list) and isinstance(sample["input"], str):
        sample["input"] = [sample["input"]]  # one message: messages also for reward functions
    return {**further, **sample}


def own_text(row: Row) -> RawSample:
    """A prompt and the response to imitate."""
    return {**prompt_fields(row), "answer": text_field(row, "response")}


PAIRS = of_columns("prompt/response_0/response_1", "pairs", own_pair)
PROMPTS = of_columns("prompt", "prompts", own_prompt)
SUPERVISED = of_columns("prompt/response", "supervised", own_text)
# Of two formats that both have all their fields in a row, the first one counts.
FORMATS = (PAIRS, *THEIR_PAIRS, SUPERVISED, *SUPERVISED_FORMATS, PROMPTS)


def format_of(row: Row, *kinds: str) -> Format | None:
    """The first format of one of these kinds whose fields a row has, or None."""
    for form in FORMATS:
        there = form.kind in kinds and row.keys() >= set(form.fields)
        if there and (form is not RANKED or is_ranked(row["answers"])):
            return form
    return None


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
            path: as ``sources.open_path`` takes it.
            rows: in place of a path, the rows themselves.

        Raises:
            UserError: with file and line (or row).
        """
        if rows is not None:
            self.read(Source(_dicts(rows), partial(rows_place, "rows")), "rows")
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

    NAME = KIND = "pairs"
    OWN = PAIRS


class ChosenDataset(FileDataset):
    """Pairs as supervised text: the response that a pair's labels prefer.

    A pair without a label, or whose labels disagree, is left out.
    """

    NAME, KIND = "chosen", "supervised"
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

    NAME = KIND = "prompts"
    OWN = PROMPTS

    def choose(self, first: Row) -> Format:
        form = format_of(first, "pairs", "supervised")
        if form is None or ("prompt" in first and form is not RANKED):
            return PROMPTS
        return replace(form, convert=lambda unit: _asked(form.convert(unit)))


def _asked(made: RawSample | list[RawSample]) -> RawSample:
    return without(made[-1] if isinstance(made, list) else made, OF_ANSWERS)


class SupervisedTextDataset(FileDataset):
    """Supervised text: ``prompt``, ``response``, and ``system`` where there is one."""

    NAME = KIND = "supervised"
    OWN = SUPERVISED


class AnyDataset(FileDataset):
    """Pairs, supervised text or prompts, as the columns of the first row say."""

    NAME = AUTO

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
