"""What a field of a published row must be, and when a row is of no use.

A field that is absent or of another type means that the file is not what its reader expects:
that is an error. A field that holds nothing usable is an accident that published data is full
of: the row is left out and counted.
"""

from __future__ import annotations

import math
from typing import Any

from safe_rlhf_panacea.data.raw import RawSample
from safe_rlhf_panacea.errors import UserError

Row = dict[str, Any]


class LeaveOut(Exception):
    """This row is of no use; the message is the reason, counted over all rows."""


def required(row: Any, field: str) -> Any:
    """A field that the schema has, whatever it holds; also of an object within a row.

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
    """The text itself.

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
    """A number, or None where there is none.

    Raises:
        UserError: something else than a number or null.
    """
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
    """A pair that says something.

    Raises:
        LeaveOut: both responses are the same, or no objective prefers one of them.
    """
    if answer == other_answer:
        raise LeaveOut("identical responses")
    if all(label is None for label in labels.values()):
        raise LeaveOut("tied or unlabelled on every objective")
    return {"input": prompt, "answer": answer, "other_answer": other_answer, "labels": labels}
