"""Formats of other people's pairs and supervised text, recognised by their columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, takewhile
from typing import Any

from safe_rlhf_panacea.data.conversation import (
    ASSISTANT,
    Conversation,
    Said,
    in_turn,
    is_dialogue,
    said,
    said_in,
)
from safe_rlhf_panacea.data.raw import CHOSEN, RawSample
from safe_rlhf_panacea.data.sources import Row
from safe_rlhf_panacea.data.table import (
    Format,
    LeaveOut,
    Numbered,
    higher,
    number,
    pair,
    required,
    text,
)
from safe_rlhf_panacea.errors import UserError

LAST_SPACE = re.compile(r"\s(?=\S*$)")
ROUND = 2  # turns: the user's and its answer


def in_row(row: Row, messages: Said) -> Conversation:
    """The conversation that messages of a row make, with the row's ``system`` if it has one.

    Raises:
        LeaveOut: as ``in_turn``.
        UserError: the row gives tools or images to the model.
    """
    for column in ("tools", "images"):
        if row.get(column):
            raise UserError(f"the column {column} is not empty; leave out rows with {column}")
    return in_turn(messages, row.get("system"))


# -- pairs --------------------------------------------------------------------------------


def whole(row: Row, field: str, before: Any = None) -> Conversation:
    """The conversation that ends with a response.

    Args:
        row: with ``system``, perhaps.
        field: of the response: a text, a message, or messages, which may be the whole conversation.
        before: the prompt, in any of the forms that ``said`` knows, or None.

    Raises:
        LeaveOut: it does not end with an answer, or is of no use otherwise.
        UserError: another schema.
    """
    value = row[field]
    if isinstance(value, str) and is_dialogue(before):
        messages = said_in(before + value)
    elif isinstance(value, str) and before is None:
        messages = said_in(value)
    elif isinstance(value, str) or value is None:
        messages = [*said(before, "prompt"), (ASSISTANT, value or "")]
    else:
        messages = said([value] if isinstance(value, dict) else value, field)
        if before is not None and messages and messages[0][0] == ASSISTANT:
            messages = [*said(before, "prompt"), *messages]
    conversation = in_row(row, messages)
    if len(conversation.turns) % ROUND:
        raise LeaveOut("no answer at the end")
    return conversation


def pair_of(one: Conversation, other: Conversation, better: int | None) -> RawSample:
    """A pair of two conversations that differ in their last answer.

    Raises:
        LeaveOut: they differ before, or the pair says nothing.
    """
    asked = len(one.turns) - 1
    if one.system != other.system or one.turns[:asked] != other.turns[:-1]:
        raise LeaveOut("conversations that part before the last answer")
    prompt = one.prompt(asked)
    sample = pair(prompt["input"], one.turns[-1], other.turns[-1], {CHOSEN: better})
    return {**sample, **prompt}


def chosen_rejected(row: Row) -> RawSample:
    """A pair whose chosen response is better, or has no label where both scores are equal."""
    prompt = row.get("prompt", row.get("conversations"))
    one, other = row["chosen"], row["rejected"]
    if prompt is None and isinstance(one, str) and isinstance(other, str) and not is_dialogue(one):
        if asked := sorted(row.keys() & {"question", "instruction", "input", "query"}):
            raise UserError(f"no field 'prompt'; rename {asked[0]!r} if that is the prompt")
        prompt, chosen, rejected = common_beginning(one, other)
        row = {**row, "chosen": chosen, "rejected": rejected}
    scores = [row.get(f"score_{side}") for side in ("chosen", "rejected")]
    better = None if None not in scores and scores[0] == scores[1] else 0
    return pair_of(whole(row, "chosen", prompt), whole(row, "rejected", prompt), better)


def common_beginning(one: str, other: str) -> tuple[str, str, str]:
    """The words that two texts both begin with, and the rest of each.

    Raises:
        LeaveOut: they have no word in common.
    """
    both = zip(f"{one} ", f"{other} ", strict=False)
    shared = "".join(a for a, _ in takewhile(lambda letters: letters[0] == letters[1], both))
    end = LAST_SPACE.search(shared)
    prompt = one[: end.start()] if end else ""
    if not prompt.strip():
        raise LeaveOut("responses without a common beginning, which would be the prompt")
    return prompt, one[len(prompt) :].strip(), other[len(prompt) :].strip()


def helpsteer3(row: Row) -> RawSample:
    """A pair whose first response is better if ``overall_preference`` (-3 to 3) is below 0."""
    preference = number(row["overall_preference"], "overall_preference")
    better = None if not preference else int(preference > 0)
    one, other = (whole(row, f"response{i}", row["context"]) for i in (1, 2))
    return pair_of(one, other, better)


def all_pairs(field: str) -> Callable[[Numbered], Numbered]:
    """Make a unit of each two entries of a row's list ``field``: six units of four entries."""

    def regroup(rows: Numbered) -> Numbered:
        for index, row in rows:
            values = row[field] if isinstance(row[field], list) else ()
            pairs: list[tuple[Any, ...]] = [*combinations(values, 2)] or [()]
            for both in pairs:
                yield index, (row, *both)

    return regroup


def two_of(unit: tuple[Row, ...], field: str) -> tuple[Row, Row, Row]:
    """The row and the pair of a unit that ``all_pairs(field)`` made.

    Raises:
        LeaveOut: the list has no pair.
        UserError: it is no list.
    """
    row, *both = unit
    if row[field] is not None and not isinstance(row[field], list):
        raise UserError(f"{field} is {type(row[field]).__name__}; it is a list")
    if not both:
        raise LeaveOut(f"fewer than two {field}")
    return row, both[0], both[1]


def nectar(unit: tuple[Row, ...]) -> RawSample:
    """A pair of ranked answers; the lower ``rank`` is better."""
    row, *both = two_of(unit, "answers")
    one, other = (
        whole({**row, "answer": required(each, "answer")}, "answer", row["prompt"]) for each in both
    )
    ranks = [number(required(each, "rank"), "rank") for each in both]
    return pair_of(one, other, higher(ranks[1], ranks[0]))


# -- supervised text ----------------------------------------------------------------------


def answers_in(conversation: Conversation) -> list[RawSample]:
    """A sample for every answer in a conversation, with the turns that lead to it as input."""
    turns = conversation.turns
    return [
        {**conversation.prompt(place), "answer": turns[place]}
        for place in range(1, len(turns), ROUND)
    ]


def chat(row: Row) -> list[RawSample]:
    """A sample for every answer in ``messages`` or ``conversations``."""
    field = "messages" if "messages" in row else "conversations"
    found = answers_in(in_row(row, said(row[field], field)))
    if not found:
        raise LeaveOut("no answer")
    return found


def completion(row: Row) -> RawSample:
    """Supervised text of a prompt and its completion."""
    if isinstance(row.get("label"), bool):
        raise UserError(
            "prompt/completion/label has one rated response to a prompt, and nothing here learns "
            "from those; pairs have two, supervised text has no label"
        )
    return answers_in(whole(row, "completion", row["prompt"]))[-1]


def alpaca(row: Row) -> RawSample:
    """Supervised text of ``instruction``, followed by ``input`` if there is one, and ``output``."""
    instruction = text(row, "instruction", "prompt")
    about = row.get("input") or ""
    if not isinstance(about, str):
        raise UserError(f"input is {type(about).__name__}; it is a string")
    # Joined by a space, as Safe-RLHF's models have seen it.
    prompt = f"{instruction} {about}" if about.strip() else instruction
    return {"input": prompt, "answer": text(row, "output", "response")}


def of_columns(columns: str, kind: str, convert: Callable[[Row], Any]) -> Format:
    """The format of rows that have some columns, given as ``one/other``, which is its name."""
    return Format(columns, kind, tuple(columns.split("/")), convert)


ALPACA = of_columns("instruction/output", "supervised", alpaca)
RANKED = Format(
    "prompt/answers by rank", "pairs", ("prompt", "answers"), nectar, all_pairs("answers")
)
# Of two formats that both have all their fields in a row, the first one counts.
THEIR_PAIRS = (
    of_columns("conversations/chosen/rejected", "pairs", chosen_rejected),
    of_columns("prompt/chosen/rejected", "pairs", chosen_rejected),
    of_columns("chosen/rejected", "pairs", chosen_rejected),
    of_columns("context/response1/response2/overall_preference", "pairs", helpsteer3),
    RANKED,
)
SUPERVISED_FORMATS = (
    of_columns("prompt/completion", "supervised", completion),
    of_columns("messages", "supervised", chat),
    of_columns("conversations", "supervised", chat),
    ALPACA,
)


def is_ranked(answers: Any) -> bool:
    """Whether answers have ranks; a column of prompts may have this name, too."""
    first = answers[0] if isinstance(answers, list) and answers else None
    return isinstance(first, dict) and "rank" in first
