"""Whether values read from JSON have the shape that their reader counts on."""

from __future__ import annotations

from typing import Any


class Number:
    """A number; JSON's readers here let only finite ones through."""


class Integer:
    """A whole number."""


NAMES = {
    Number: "a number",
    Integer: "a whole number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """What is wrong with ``value``, in a few words; None if nothing is.

    Args:
        value: as JSON gives it.
        shape: a key of ``NAMES``; a list with the shape of its elements, and their number behind
            it where that is known; a dictionary with the shapes of keys that must be there; or a
            tuple of shapes of which one must fit.
        where: the place of ``value`` in the file.
    """
    if isinstance(shape, tuple):
        found = [misfit(value, one, where) for one in shape]
        return None if None in found else f"{where or 'it'} must be {_wanted(shape)}"
    if not _is_of(value, shape):
        return f"{where or 'it'} must be {_wanted(shape)}"
    if isinstance(shape, list):
        inner, *count = shape
        if count and len(value) != count[0]:
            return f"{where or 'it'} must have {count[0]} entries, not {len(value)}"
        parts = ((entry, inner, f"{where}[{i}]") for i, entry in enumerate(value))
    elif isinstance(shape, dict):
        missing = [key for key in shape if key not in value]
        if missing:
            return f"{where or 'it'} lacks {', '.join(missing)}"
        parts = ((value[k], inner, f"{where}.{k}".lstrip(".")) for k, inner in shape.items())
    else:
        return None
    return next((text for part in parts if (text := misfit(*part))), None)


def _kind(shape: Any) -> type:
    return shape if isinstance(shape, type) else type(shape)


def _is_of(value: Any, shape: Any) -> bool:
    kind = _kind(shape)
    if kind in (Number, Integer):  # Python counts True among the numbers
        kinds = (int, float) if kind is Number else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, kind)


def _wanted(shape: Any) -> str:
    shapes = shape if isinstance(shape, tuple) else (shape,)
    return " or ".join(dict.fromkeys(NAMES[_kind(one)] for one in shapes))
