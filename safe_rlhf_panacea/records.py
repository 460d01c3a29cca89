"""Plain values that are checked when they are made or read, and that JSON can hold."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safe_rlhf_panacea.errors import UserError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Vector = tuple[Number, ...]
Name = Annotated[str, Field(min_length=1)]
Model = TypeVar("Model", bound="Record")


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
    """Make a record of plain values that were read from a file.

    Args:
        kind: of the record.
        where: the file, and the line in it where there is one.
        content: what stands there.

    Raises:
        UserError: the first thing that does not fit, in one line.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {f'{place}: ' if place else ''}{text}") from error
