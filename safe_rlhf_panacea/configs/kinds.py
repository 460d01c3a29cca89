"""What a value of an option may be: from text of a command line or YAML, or from Python.

A kind takes the text or the value, returns the value, and raises a ``UserError`` that says what is
wrong with it. Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from safe_rlhf_panacea.errors import UserError

Kind = Callable[[Any], Any]
AnyPath = str | Path  # an option has it as text
AUTO = "auto"  # in place of a server's address
FROM_PYTHON = "made in Python"  # key of what stands in a record for an object
LARGEST = 2**31 - 1  # of whole numbers: what every library underneath can hold


def boolean(value: Any) -> bool:
    """``true`` or ``false``, as Safe-RLHF's launchers write them."""
    if isinstance(value, bool):
        return value
    lowered = str(value).lower()
    if lowered in ("true", "yes", "1"):
        return True
    if lowered in ("false", "no", "0"):
        return False
    raise UserError(f"{value!r} is neither true nor false")


def number(what: str, is_right: Callable[[float], bool]) -> Kind:
    """A finite number, described by ``what``, for which ``is_right`` holds."""

    def read(value: Any) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{_shown(value)} is not a number") from None
        if not (math.isfinite(found) and is_right(found)):
            raise UserError(f"{value} is not {what}")
        return found

    return read


def integer(what: str, least: int, most: int = LARGEST) -> Kind:
    """A whole number from ``least`` to ``most``, described by ``what``."""

    def read(value: Any) -> int:
        try:
            found = int(value) if isinstance(value, str) else value.__index__()
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"{value!r} is not {what}") from None
        if isinstance(value, bool) or not least <= found <= most:
            limit = f": the largest is {most}" if found > most else ""
            shown = value if isinstance(value, str) else _shown(value)
            raise UserError(f"{shown} is not {what}{limit}")
        return int(found)

    return read


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"


finite_float = number("a finite number", lambda value: True)
positive_int = integer("a positive integer", 1)
seed_int = integer("a seed, an integer from 0 on", 0, 2**32 - 1)  # NumPy takes no larger one


def text(value: Any) -> str:
    """Text, or a path of Python's as text."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{value!r} is not text")
    return os.fspath(value)


def filled(value: Any) -> str:
    """Text that is there: an empty path would be the current folder."""
    found = text(value)
    if not found.strip():
        raise UserError("must not be empty")
    return found


def folder(value: Any) -> str:
    """A path, with the home folder in place of a leading ``~``."""
    try:
        return str(Path(filled(value)).expanduser())
    except RuntimeError:
        raise UserError(f"{value} begins with ~ and a name that no user has") from None


def objective_name(value: Any) -> str:
    """The name of an objective."""
    from safe_rlhf_panacea.preference import check_objective_names

    check_objective_names([text(value)])
    return text(value)


def named_value(value: Any) -> tuple[str, Any]:
    """``name=value``, or such a pair."""
    if not isinstance(value, str):
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise UserError(f"{value!r} is not a pair of a name and a value")
        _refuse_record(value[1])
        return text(value[0]), value[1]
    name, separator, found = value.partition("=")
    if not separator or not name or not found:
        raise UserError(f"{value!r} is not of the form name=value")
    return name, found


def preference(value: Any) -> str:
    """A preference vector as text, given in any form that ``parse_preference`` takes."""
    if isinstance(value, str):  # before torch is imported
        return filled(value)
    from safe_rlhf_panacea.preference import preference_text

    return preference_text(value)


def chat_template(value: Any) -> str:
    """``auto``, ``safe-rlhf``, ``none``, ``raw``, or a jinja file that renders."""
    if value in ("auto", "safe-rlhf", "none", "raw"):  # before torch is imported
        return text(value)
    from safe_rlhf_panacea.data.templates import check_choice

    return check_choice(filled(value))


def data_set(value: Any) -> Any:
    """A data set as text, as Safe-RLHF's pair of name and attributes, or as an object."""
    if isinstance(value, str | os.PathLike):
        return filled(value)
    _refuse_record(value)
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    if not pair and isinstance(value, bool | int | float | list | tuple | Mapping | None):
        raise UserError(f"{value!r} is no data set: give [objective=]name[:proportion[:path]]")
    return value


def model(value: Any) -> Any:
    """The name or folder of a model, or a ``LoadedModel``."""
    if isinstance(value, str | os.PathLike):
        return filled(value)
    _refuse_record(value)
    if not (hasattr(value, "model") and hasattr(value, "tokenizer")):
        kind = type(value).__name__
        raise UserError(
            f"a {kind} is no model: give a name, a folder, or a model with its tokenizer"
        )
    return value


def _refuse_record(value: Any) -> None:
    """Refuse what stands in ``run.yaml`` for an object that no file can hold."""
    if isinstance(value, Mapping) and FROM_PYTHON in value:
        raise UserError(
            f"the run was made in Python with {value[FROM_PYTHON]!r}, which no file can hold: give "
            "this option anew"
        )


def one_of(choices: tuple[Any, ...]) -> Kind:
    """One of some values, or its text."""
    by_text = {str(choice): choice for choice in choices}

    def read(value: Any) -> Any:
        if isinstance(value, bool) or str(value) not in by_text:
            among = ", ".join(map(repr, by_text))
            raise UserError(f"invalid choice: {value!r} (choose from {among})")
        return by_text[str(value)]

    return read


def server_url(text: str) -> str:
    """A server's address, ``http://HOST:PORT``; a trailing ``/v1`` is dropped."""
    parts = urlsplit(text)
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise UserError(f"{text!r} is no server's address: it must be of the form http://HOST:PORT")
    return text.rstrip("/").removesuffix("/v1")


def server(value: Any) -> str:
    """A server's address, or ``auto``."""
    return AUTO if value == AUTO else server_url(text(value))


# Types of options: what Python has, what reads it, and what stands for it in the help.
Positive = Annotated[float, number("a positive number", lambda value: value > 0)]
NonNegative = Annotated[float, number("a number of at least 0", lambda value: value >= 0)]
Probability = Annotated[float, number("between 0 and 1", lambda value: 0 <= value <= 1)]
Share = Annotated[float, number("above 0 and at most 1", lambda value: 0 < value <= 1)]
ProperShare = Annotated[float, number("above 0 and below 1", lambda value: 0 < value < 1)]
AnyInteger = Annotated[int, integer("an integer", -LARGEST)]
Port = Annotated[int, integer("a port, a number from 0 to 65535", 0, 65535)]
Seed = Annotated[int, seed_int]
Text = Annotated[str, text]
Folder = Annotated[str, folder]
ObjectiveName = Annotated[str, objective_name]
Vector = Annotated[str, preference, "VECTOR"]
Template = Annotated[str, chat_template, "TEMPLATE"]
Model = Annotated[Any, model, "MODEL"]
DataSet = Annotated[Any, data_set, "SPEC"]
Named = Annotated[tuple[str, Any], named_value, "NAME=VALUE"]
NamedPath = Annotated[tuple[str, Any], named_value, "NAME=PATH"]
ServerOrAuto = Annotated[str, server, "URL"]
