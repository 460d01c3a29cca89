"""The user's own data, from a path, the hub or Python, in a format that its columns tell.

This package's own formats are strict, since whoever wrote a row can mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from safe_rlhf_panacea.data import formats, raw
from safe_rlhf_panacea.data.formats import in_turn, is_dialogue, nectar, rows_with, said, text
from safe_rlhf_panacea.data.raw import AUTO, OF_ANSWERS, Format, LeaveOut, RawSample, Row, without
from safe_rlhf_panacea.data.specs import open_path, row_place
from safe_rlhf_panacea.errors import UserError

LABEL_PREFIX = "better_"
# No column of prompts has one of these names, by which reward functions get their own arguments.
TAKEN = frozenset(
    {"input", "turns", "prompts", "responses", "prompt_ids", "response_ids", "response_lengths"}
    | {"completions", "completion_ids", "step", "trainer_state", "log_metric", "log_extra"}
)


def text_field(row: Row, field: str) -> str:
    """A field that must be text and not blank."""
    value = row.get(field)
    if value is None:
        raise UserError(f"no field {field!r}; the row has: {', '.join(map(str, row))}")
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{field} is blank; write some text or leave out the row")
    try:
        return text(row, field, field)
    except LeaveOut:
        raise UserError(f"{field} has half a surrogate pair; it is Unicode text") from None


def prompt_fields(row: Row) -> RawSample:
    """The input of a row's ``prompt`` (text, turns, messages, or a dialogue), and ``system``."""
    prompt = row.get("prompt")
    turns = prompt if isinstance(prompt, list) else [prompt]
    conversation = None
    if is_dialogue(prompt) or (turns and isinstance(turns[0], dict)):
        conversation = in_turn(said(prompt, "prompt"), row.get("system"))
        turns = conversation.turns
    if len(turns) % 2 == 0:
        told = f"prompt has {len(turns)} turns"
        raise UserError(f"{told}; it has an odd number, ending with the user's")
    if conversation is not None:
        return conversation.prompt(len(turns))
    texts = [text_field({**row, "prompt": turn}, "prompt") for turn in turns]
    sample: RawSample = {"input": texts if isinstance(prompt, list) else texts[0]}
    if row.get("system") not in (None, ""):
        sample["system"] = text_field(row, "system")
    return sample


@rows_with("prompt/response_0/response_1", "pairs")
def pairs(row: Row) -> RawSample:
    """A pair of two responses, with all its labels, of which there may be none.

    A label, ``better_<objective>``, is 0 or 1, the better response, or null. Safe-RLHF's
    ``better_response_id`` and ``safer_response_id`` count as ``helpful`` and ``harmless``.
    """
    labels: dict[str, int | None] = {}
    sample: RawSample = {
        **prompt_fields(row),
        "answer": text_field(row, "response_0"),
        "other_answer": text_field(row, "response_1"),
        "labels": labels,
    }
    for field, value in row.items():
        if field in raw.SAFE_RLHF_LABELS:
            labels.setdefault(raw.SAFE_RLHF_LABELS[field], raw.label_value(value, field))
        elif field.startswith(LABEL_PREFIX) and field != LABEL_PREFIX:
            labels[field.removeprefix(LABEL_PREFIX)] = raw.label_value(value, field)
    if sample["answer"] == sample["other_answer"]:
        raise LeaveOut("identical responses")
    return sample


@rows_with("prompt", "prompts")
def prompts(row: Row) -> RawSample:
    """A prompt, and its further columns for reward functions that ask for them."""
    if taken := sorted(TAKEN.intersection(row)):
        told = f"the column {taken[0]!r} has a name under which reward functions get something else"
        raise UserError(f"{told}: rename it")
    sample = prompt_fields(row)
    if isinstance(row["prompt"], list) and isinstance(sample["input"], str):
        sample["input"] = [sample["input"]]  # one message: messages also for reward functions
    return {**without(row, ("prompt", "system")), **sample}


@rows_with("prompt/response", "supervised")
def supervised(row: Row) -> RawSample:
    """A prompt and the response to imitate."""
    return {**prompt_fields(row), "answer": text_field(row, "response")}


def chat(row: Row) -> list[RawSample]:
    """A sample for every answer in ``messages`` or ``conversations``."""
    field = "messages" if "messages" in row else "conversations"
    found = formats.in_row(row, said(row[field], field)).answers()
    if not found:
        raise LeaveOut("no answer")
    return found


@rows_with("prompt/completion", "supervised")
def completion(row: Row) -> RawSample:
    """Supervised text of a prompt and its completion."""
    if isinstance(row.get("label"), bool):
        raise UserError(
            "prompt/completion/label has one rated response to a prompt, and nothing here learns "
            "from those; pairs have two, supervised text has no label"
        )
    return formats.whole(row, "completion", row["prompt"]).answers()[-1]


@rows_with("instruction/output", "supervised")
def alpaca(row: Row) -> RawSample:
    """Supervised text of ``instruction``, followed by ``input`` if there is one, and ``output``."""
    instruction = text(row, "instruction", "prompt")
    about = row.get("input") or ""
    if not isinstance(about, str):
        raise UserError(f"input is {type(about).__name__}; it is a string")
    # Joined by a space, as Safe-RLHF's models have seen it.
    prompt = f"{instruction} {about}" if about.strip() else instruction
    return {"input": prompt, "answer": text(row, "output", "response")}


COMPARED = ("conversations/chosen/rejected", "prompt/chosen/rejected", "chosen/rejected")
# Of two formats that both have all their fields in a row, the first one counts.
FORMATS: tuple[Format, ...] = (
    pairs,
    *(rows_with(columns, "pairs")(formats.chosen_rejected) for columns in COMPARED),
    formats.helpsteer3,
    nectar,
    supervised,
    completion,
    *(rows_with(columns, "supervised")(chat) for columns in ("messages", "conversations")),
    alpaca,
    prompts,
)


def format_of(row: Row, *kinds: str) -> Format | None:
    """The first format of one of these kinds whose fields a row has, or None."""
    answers = row.get("answers")
    first = answers[0] if isinstance(answers, list) and answers else None
    is_ranked = isinstance(first, dict) and "rank" in first  # a column of prompts may be answers
    fitting = (form for form in FORMATS if form.kind in kinds and row.keys() >= {*form.fields})
    return next((form for form in fitting if form is not nectar or is_ranked), None)


def _chosen(form: Format, unit: Any) -> RawSample:
    """The response that all labels of a pair prefer, as supervised text."""
    sample: Any = form.convert(unit)
    better = {value for value in sample["labels"].values() if value is not None}
    if len(better) != 1:
        raise LeaveOut("no label, or labels that disagree")
    answer = sample["other_answer"] if better == {1} else sample["answer"]
    return {**without(sample, OF_ANSWERS), "answer": answer}


def _asked(form: Format, unit: Any) -> RawSample:
    """The prompt of a pair or of supervised text, the last one of a conversation."""
    made = form.convert(unit)
    return without(made[-1] if isinstance(made, list) else made, OF_ANSWERS)


class FileDataset(raw.TableDataset):
    """Data of one kind, in any of ``FORMATS`` that has it.

    ``prompts`` are also read from pairs and texts; a pair whose labels disagree is no ``chosen``.
    """

    OWN: ClassVar[Format]  # the format of this package for the kind

    def __init__(self, path: str | None = None, *, rows: Iterable[Row] | None = None) -> None:
        """Read and check all rows: those given, or what ``open_path`` opens."""
        if rows is not None:
            self.read(raw.Source(_dicts(rows), partial(row_place, "rows")), "rows")
        elif path is None:
            raise UserError(f"data set {self.NAME!r} needs a path: {self.NAME}:1:file.jsonl")
        else:
            self.read(open_path(path), path)

    def format_of(self, first: Row) -> Format:
        form = self._choose(first)
        if self.NAME == AUTO or form.name not in {pairs.name, prompts.name, supervised.name}:
            self.seen = form.name
        return form

    def _choose(self, first: Row) -> Format:
        with_answer = format_of(first, "pairs", "supervised")
        if self.NAME == AUTO:
            if (form := with_answer or format_of(first, "prompts")) is None:
                known = ", ".join(form.name for form in FORMATS)
                columns = ", ".join(map(str, first))
                raise UserError(f"the columns {columns} are of no format that is read: {known}")
            self.KIND = form.kind  # type: ignore[misc]  # of this one; other kinds have it for all
            return form
        if self.NAME == "prompts":
            if with_answer is None or ("prompt" in first and with_answer is not nectar):
                return prompts
            return replace(with_answer, convert=lambda unit: _asked(with_answer, unit))
        form = format_of(first, self.OWN.kind)
        if form is None and with_answer is not None:
            they = {"pairs": "pairs; chosen", "supervised": "supervised texts; supervised"}
            raise UserError(f"{with_answer.name} are {they[with_answer.kind]}:1:PATH reads them")
        form = form or self.OWN
        if self.NAME != "chosen":
            return form
        return replace(form, convert=lambda unit: _chosen(form, unit))


def _dicts(rows: Iterable[Any]) -> Iterator[Row]:
    if hasattr(rows, "keys"):
        kind = type(rows).__name__
        raise UserError(f"rows is {kind}; it is an iterable of dictionaries, such as one split")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"rows, row {index + 1}: {type(row).__name__}; a row is a dictionary")
        yield row


class PairsDataset(FileDataset):
    """Pairs, with their labels."""

    NAME = KIND = "pairs"
    OWN = pairs


class ChosenDataset(FileDataset):
    """Of pairs the response that all their labels prefer, as supervised text."""

    NAME, KIND = "chosen", "supervised"
    OWN = pairs


class PromptsDataset(FileDataset):
    """Prompts, with their further columns."""

    NAME = KIND = "prompts"
    OWN = prompts


class SupervisedTextDataset(FileDataset):
    """Texts and dialogues whose answers SFT, or the PTX loss of PPO, learns from."""

    NAME = KIND = "supervised"
    OWN = supervised


class AnyDataset(FileDataset):
    """Whichever of these the columns of the first row say."""

    NAME = AUTO
    OWN = pairs


def from_rows(
    rows: Iterable[Row], kind: str = AUTO, objective: str | None = None
) -> raw.RawDataset:
    """Make a data set of rows in memory, which the tokenised data sets take in place of a name.

    ``rows`` are dictionaries in any format that is read, gone through once; ``kind`` is ``pairs``,
    ``prompts``, ``supervised``, ``chosen``, or ``auto``: as the columns say; ``objective`` is the
    one that the labels of pairs are for, None: as the rows say.
    """
    kinds = {cls.NAME: cls for cls in FileDataset.__subclasses__()}
    if kind not in kinds:
        raise UserError(f"unknown kind of data {kind!r}; there are: {', '.join(sorted(kinds))}")
    data = kinds[kind](rows=rows)
    if objective is not None:
        data.samples = raw.for_objective(data.samples, objective, "rows")
    return data
