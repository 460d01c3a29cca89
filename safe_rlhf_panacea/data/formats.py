"""Formats of published rows: fields of text and numbers, conversations, and pairs.

A field that is absent or of another type means that a file is not in the format: a ``UserError``.
A field that holds nothing usable is common in published data: ``LeaveOut``, and the row is left out
and counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import combinations
from os.path import commonprefix
from typing import Any, NamedTuple

from safe_rlhf_panacea.data.raw import CHOSEN, Format, LeaveOut, Numbered, RawSample, Row
from safe_rlhf_panacea.errors import UserError


def rows_with(columns: str, kind: str, name: str = "", **options: Any) -> Callable[..., Format]:
    """Make a ``Format`` of a function, for rows that have ``columns``, given as ``one/other``."""
    fields = tuple(columns.split("/"))
    return lambda convert: Format(name or columns, kind, fields, convert, **options)


def required(row: Any, field: str) -> Any:
    """A field that the format has, whatever it holds; also of an object within a row."""
    if not isinstance(row, dict):
        raise UserError(f"{type(row).__name__} where an object with the field {field!r} belongs")
    if field not in row:
        raise UserError(f"no field {field!r}; there are: {', '.join(map(str, row))}")
    return row[field]


def text(row: Row, field: str, what: str) -> str:
    """A field of text that can be used; ``what`` is its name in the reasons: prompt, response."""
    value = required(row, field)
    if not isinstance(value, str) and value is not None:
        raise UserError(f"{field} is {type(value).__name__}; it is a string")
    return usable(value or "", what)


def usable(value: str, what: str) -> str:
    """The text itself; ``LeaveOut`` if it is blank or holds half a surrogate pair."""
    if not value.strip():
        raise LeaveOut(f"blank {what}")
    try:
        value.encode()
    except UnicodeEncodeError:  # which no tokenizer takes
        raise LeaveOut(f"broken Unicode in the {what}") from None
    return value


def number(value: Any, field: str) -> float | None:
    """A finite number, or None where there is none; ``UserError`` for anything but a number."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UserError(f"{field} is {value!r}; it is a number or null")
    return float(value) if math.isfinite(value) else None


def higher(one: float | None, other: float | None) -> int | None:
    """Which of two ratings is higher: 0, 1, or None for a tie or a missing one."""
    if one is None or other is None or one == other:
        return None
    return 0 if one > other else 1


def pair(
    prompt: str | list[str], answer: str, other_answer: str, labels: dict[str, int | None]
) -> RawSample:
    """A pair; ``LeaveOut`` if both responses are the same, or no objective prefers one."""
    if answer == other_answer:
        raise LeaveOut("identical responses")
    if all(label is None for label in labels.values()):
        raise LeaveOut("tied or unlabelled on every objective")
    return {"input": prompt, "answer": answer, "other_answer": other_answer, "labels": labels}


def all_pairs(field: str) -> Callable[[Numbered], Numbered]:
    """For ``Format.regroup``: a unit of each two entries of a list, with their row before them."""

    def regroup(rows: Numbered) -> Numbered:
        for index, row in rows:
            values = row[field] if isinstance(row[field], list) else ()
            pairs: list[tuple[Any, ...]] = [*combinations(values, 2)] or [()]
            for both in pairs:
                yield index, (row, *both)

    return regroup


def two_of(unit: tuple[Row, ...], field: str) -> tuple[Row, Row, Row]:
    """A unit of ``all_pairs(field)``: the row and the two entries."""
    row, *both = unit
    if row[field] is not None and not isinstance(row[field], list):
        raise UserError(f"{field} is {type(row[field]).__name__}; it is a list")
    if not both:
        raise LeaveOut(f"fewer than two {field}")
    return row, both[0], both[1]


SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("user", "human", "Human"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "Assistant"), ASSISTANT),
}
TOOLS = frozenset({"tool", "function", "function_call", "observation", "ipython"})
NO_TURNS = "speakers that do not take turns"

Said = list[tuple[str, str]]  # role and words of each message


class Conversation(NamedTuple):
    """Turns that alternate user, assistant, ..., and the system prompt, or ``""``."""

    system: str
    turns: list[str]

    def prompt(self, turns: int) -> RawSample:
        """The sample of a prompt that is the first turns, of which the last is the user's."""
        asked = self.turns[:turns]
        sample: RawSample = {"input": asked[0] if turns == 1 else asked}
        return {**sample, "system": self.system} if self.system else sample

    def answers(self) -> list[RawSample]:
        """A sample for every answer, with the turns that lead to it as input."""
        places = range(1, len(self.turns), 2)
        return [{**self.prompt(place), "answer": self.turns[place]} for place in places]


def is_dialogue(value: Any) -> bool:
    """Whether a value is a dialogue in one text, as hh-rlhf has it."""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def said_in(dialogue: str) -> Said:
    """Take a text apart in which a blank line and ``Human:`` or ``Assistant:`` begin a turn."""
    head, *parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + dialogue.lstrip())
    if head:
        raise LeaveOut(NO_TURNS)
    return [(ROLES[who], turn.strip()) for who, turn in zip(parts[::2], parts[1::2], strict=True)]


def said(value: Any, field: str) -> Said:
    """The messages of a prompt or a conversation.

    ``value`` is one text of the user's, a dialogue in one text, a list of turns that alternate
    user, assistant, ..., or a list of messages with ``role`` and ``content`` (or ``from`` and
    ``value``). All else, such as tools, is a ``UserError``, which names the ``field``.
    """
    if is_dialogue(value):
        turns = said_in(value)
        # A last turn of the assistant without words is the one to be answered.
        return turns[:-1] if turns[-1] == (ASSISTANT, "") else turns
    if isinstance(value, str) or value is None:
        return [(USER, value or "")]
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{field} is {type(value).__name__}; it is text or a list of messages")
    if value and all(isinstance(turn, str) for turn in value):
        return [(USER if i % 2 == 0 else ASSISTANT, turn) for i, turn in enumerate(value)]
    return [_message(message, f"{field}: message {i + 1}") for i, message in enumerate(value)]


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        kind = type(message).__name__
        raise UserError(f"{where} is {kind}; it is an object with role and content")
    role = str(message.get("role") or message.get("from"))
    if role in TOOLS or message.get("tool_calls") or message.get("function_call"):
        raise UserError(f"{where} is about a tool, which no data set here has: leave out such rows")
    if role not in ROLES:
        raise UserError(f"{where} has the role {role!r}; roles are system, user and assistant")
    content = message.get("content", message.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if not all(isinstance(part.get("text"), str) for part in content):
            raise UserError(f"{where} has a part that is no text; only text is read")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) and content is not None:
        raise UserError(f"{where}: content is {type(content).__name__}; it is a string")
    return ROLES[role], content or ""


def in_turn(messages: Said, system: Any = None) -> Conversation:
    """The conversation of messages whose speakers take turns, user first; else ``LeaveOut``.

    ``system`` is used where no message is a system prompt.
    """
    if not isinstance(system, str) and system is not None:
        raise UserError(f"system is {type(system).__name__}; it is a string")
    system = system or ""
    if messages and messages[0][0] == SYSTEM:
        system, messages = messages[0][1], messages[1:]
    expected = [USER if i % 2 == 0 else ASSISTANT for i in range(len(messages))]
    if not messages or [role for role, _ in messages] != expected:
        raise LeaveOut(NO_TURNS)
    *turns, (role, last) = messages
    asked = "turn" if turns else "prompt"
    words = [usable(turn, "turn") for _, turn in turns]
    words.append(usable(last, "response" if role == ASSISTANT else asked))
    return Conversation(system if system.strip() else "", words)


def in_row(row: Row, messages: Said) -> Conversation:
    """The conversation that messages of a row make, with the row's ``system`` if it has one."""
    for column in ("tools", "images"):
        if row.get(column):
            raise UserError(f"the column {column} is not empty; leave out rows with {column}")
    return in_turn(messages, row.get("system"))


def whole(row: Row, field: str, before: Any = None) -> Conversation:
    """The conversation that ends with the response ``row[field]``.

    This is a text, a message, or messages, which may be the whole conversation. ``before`` is the
    prompt, in any of the forms that ``said`` knows, or None.
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
    if len(conversation.turns) % 2:
        raise LeaveOut("no answer at the end")
    return conversation


def pair_of(one: Conversation, other: Conversation, better: int | None) -> RawSample:
    """A pair of two conversations, which may differ in their last answer alone."""
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
        # The prompt is the whole words that both texts begin with.
        shared = commonprefix([f"{one} ", f"{other} "])  # noqa: RUF071  # by characters
        end = re.search(r"\s(?=\S*$)", shared)
        prompt = one[: end.start()] if end else ""
        if not prompt.strip():
            raise LeaveOut("responses without a common beginning, which would be the prompt")
        rests = {"chosen": one, "rejected": other}
        row = row | {side: rest[len(prompt) :].strip() for side, rest in rests.items()}
    scores = [row.get(f"score_{side}") for side in ("chosen", "rejected")]
    better = None if None not in scores and scores[0] == scores[1] else 0
    return pair_of(whole(row, "chosen", prompt), whole(row, "rejected", prompt), better)


@rows_with("context/response1/response2/overall_preference", "pairs")
def helpsteer3(row: Row) -> RawSample:
    """A pair whose first response is better if ``overall_preference`` (-3 to 3) is below 0."""
    preference = number(row["overall_preference"], "overall_preference")
    one, other = (whole(row, f"response{i}", row["context"]) for i in (1, 2))
    return pair_of(one, other, int(preference > 0) if preference else None)


@rows_with("prompt/answers", "pairs", "prompt/answers by rank", regroup=all_pairs("answers"))
def nectar(unit: tuple[Row, ...]) -> RawSample:
    """A pair of ranked answers; the lower ``rank`` is better."""
    row, *both = two_of(unit, "answers")
    one, other = (
        whole({**row, "answer": required(each, "answer")}, "answer", row["prompt"]) for each in both
    )
    ranks = [number(required(each, "rank"), "rank") for each in both]
    return pair_of(one, other, higher(ranks[1], ranks[0]))
