"""Values that are read from JSON: records that pydantic checks, the shapes of others, examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Vector = tuple[Number, ...]
Name = Annotated[str, Field(min_length=1)]
Model = TypeVar("Model", bound="Record")

NAMES = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
EXAMPLES_FILE = "examples.json"


class Record(BaseModel):
    """Values that cannot be changed; when read, keys that are not fields are ignored."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, arbitrary_types_allowed=True)

    def fields(self) -> dict[str, Any]:
        """The values of all fields by name, not copied."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def __eq__(self, other: object) -> bool:
        """By the fields; what was computed from them and kept does not count."""
        return type(self) is type(other) and self.fields() == other.fields()

    __hash__ = None  # type: ignore[assignment]

    def having(self: Model, **changes: Any) -> Model:
        """A validated copy in which some fields have other values."""
        return type(self)(**{**self.fields(), **changes})


def validated(kind: type[Model], where: str, content: Any) -> Model:
    """Make a record of plain values that stand at ``where``: a file, and the line in it.

    A ``UserError`` names the first thing that does not fit.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {f'{place}: ' if place else ''}{text}") from error


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """What is wrong with a value of JSON, in a few words; None if nothing is.

    A shape is a key of ``NAMES``; a list with the shape of its elements, and their number behind it
    where that is known; a dictionary with the shapes of keys that must be there; or a tuple of
    shapes of which one must fit. ``where`` is the place of the value in the file.
    """
    place = where or "it"
    if isinstance(shape, tuple):
        fits = any(misfit(value, one, where) is None for one in shape)
        return None if fits else f"{place} must be {_wanted(*shape)}"
    kind = shape if isinstance(shape, type) else type(shape)
    # JSON writes 1 for 1.0, and Python counts True among the numbers.
    is_of_kind = isinstance(value, (int, float) if kind is float else kind)
    if not is_of_kind or (isinstance(value, bool) and kind is not bool):
        return f"{place} must be {_wanted(kind)}"
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(shape, list):
        inner, *count = shape
        if count and len(value) != count[0]:
            return f"{place} must have {count[0]} entries, not {len(value)}"
        parts = [(entry, inner, f"{where}[{i}]") for i, entry in enumerate(value)]
    elif isinstance(shape, dict):
        if missing := [key for key in shape if key not in value]:
            return f"{place} lacks {', '.join(missing)}"
        parts = [(value[k], inner, f"{where}.{k}".lstrip(".")) for k, inner in shape.items()]
    return next((text for part in parts if (text := misfit(*part))), None)


def _wanted(*shapes: Any) -> str:
    kinds = (shape if isinstance(shape, type) else type(shape) for shape in shapes)
    return " or ".join(dict.fromkeys(NAMES[kind] for kind in kinds))


class Examples(Record):
    """Prompts that an adapter can answer, for the page and the chat, and a note about the model."""

    prompts: Sequence[str]
    note: str  # may be empty


def write_examples(adapter: str | Path, examples: Examples) -> None:
    """Write ``examples.json`` into an adapter's folder."""
    atomic_write_json(Path(adapter) / EXAMPLES_FILE, examples.model_dump())


def read_examples(adapter: str | Path) -> Examples:
    """The examples of an adapter's folder; empty where it has none."""
    path = Path(adapter) / EXAMPLES_FILE
    content = read_json(path) if path.exists() else {"prompts": (), "note": ""}
    return validated(Examples, str(path), content)
