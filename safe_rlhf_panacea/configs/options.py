"""Options as fields of frozen dataclasses: the one source of flags, YAML, records and reference.

A class of options declares each with its type, its default and ``option(...)``; a subclass that
only changes a default writes ``name: type = default``. Values are read by the option's kind,
whether they come from a command line, from YAML or from Python.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import suggestion

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:  # doctor.py has to run where packages are missing

    def dataclass_transform(**_: Any) -> Any:
        """Do nothing: only type checkers ask."""
        return lambda decorator: decorator


Made = TypeVar("Made")
# Not functools.cache: mypy does not count a class among what can be hashed.
_found: dict[type[Options], dict[str, Option]] = {}
_BY_TYPE: dict[Any, kinds.Kind] = {
    bool: kinds.boolean,
    int: kinds.positive_int,
    float: kinds.finite_float,
    str: kinds.filled,
}


def option(
    default: Any = None,
    text: str = "",
    *,
    kind: kinds.Kind | None = None,
    names: tuple[str, ...] = (),
    metavar: str | None = None,
    required: bool = False,
    positional: bool = False,
    repeat: bool = False,
) -> Any:
    """A field of a class of options.

    Args:
        default: its value where none is given.
        text: its help.
        kind: reads a value, or each item of several; default: by the field's type, a positive
            integer, a finite number, text that is not empty, ``true`` or ``false``.
        names: further names of the flag.
        metavar: stands for its value in the help; default: as argparse has it.
        required: whether a command line must give it; its type need not name the None that it is
            until then.
        positional: whether a command line gives it by its place, without a flag.
        repeat: of several values: each is given by a flag of its own.
    """
    about = {"text": text, "kind": kind, "names": names, "metavar": metavar, "required": required}
    about |= {"positional": positional, "repeat": repeat}
    return dataclasses.field(default=default, metadata=about)


# Without field_specifiers: to type checkers every option then has a default, as it has.
@dataclass_transform(frozen_default=True, kw_only_default=True)
def configuration(cls: type[Made]) -> type[Made]:
    """Make a class of options: a frozen dataclass whose fields are given by name."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of one option of a class: what ``option`` was told, and what its field says.

    Attributes:
        group: the title of the class that declares it.
        several: whether it takes several values.
        choices: the values that it may have; empty: whatever its kind reads.
    """

    name: str
    default: Any
    group: str
    several: bool
    choices: tuple[Any, ...]
    text: str
    kind: kinds.Kind
    names: tuple[str, ...]
    metavar: str | None
    required: bool
    positional: bool
    repeat: bool

    @property
    def flag(self) -> str:
        """What messages call it."""
        return self.name if self.positional else f"--{self.name}"

    def read(self, value: Any) -> Any:
        """A value, or the values, as the option has them; a ``UserError`` names the option."""
        if value is None and (self.default is None or self.several):
            return self.default
        if not self.several:
            values: tuple[Any, ...] = (value,)
        elif isinstance(value, Mapping) and self.kind is kinds.named_value:
            values = tuple(value.items())
        else:
            values = tuple(value) if isinstance(value, list | tuple) else (value,)
        try:
            found = tuple(map(self.kind, values))
        except ArgumentTypeError as error:  # a UserError is one
            raise UserError(f"{self.flag}: {error}") from None
        return found if self.several else found[0]


def options_of(cls: type[Options]) -> dict[str, Option]:
    """The options of a class by name: in the order in which the classes list them."""
    if cls in _found:
        return _found[cls]
    # The class that declares an option first has its title, the last one says what it is.
    declared: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for owner in reversed(cls.__mro__):
        if not (isinstance(owner, type) and issubclass(owner, Options)):
            continue
        for name in inspect.get_annotations(owner):
            field = owner.__dataclass_fields__.get(name)
            if field is not None and "text" in field.metadata:
                group, _ = declared.get(name, (owner.GROUP, {}))
                declared[name] = group, field.metadata
    hints = get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        group, about = declared[field.name]
        item, several = _item_type(hints[field.name])
        choices = get_args(item) if get_origin(item) is Literal else ()
        kind = about["kind"] or (kinds.one_of(choices) if choices else _BY_TYPE[item])
        found[field.name] = Option(
            name=field.name,
            default=field.default,
            group=group,
            several=several,
            choices=choices,
            **{**about, "kind": kind},
        )
    return _found.setdefault(cls, found)


def _item_type(hint: Any) -> tuple[Any, bool]:
    """The type of one value of a field, and whether the field has several.

    The first of a union is what the field has, the others are what it is made of besides.
    """
    if get_origin(hint) in (Union, types.UnionType):
        hint = get_args(hint)[0]
    if get_origin(hint) in (tuple, Sequence):
        return get_args(hint)[0], True
    return hint, False


@configuration
class Options:
    """Base of all classes of options: values are read and checked when one is made.

    A ``UserError`` names the option and what is wrong with its value.
    """

    GROUP: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "") -> None:
        """Give the options that a class declares a title: ``class Mine(Options, group="…")``."""
        cls.GROUP = group

    def __post_init__(self) -> None:
        """Read every value by its option's kind."""
        for name, one in options_of(type(self)).items():
            object.__setattr__(self, name, one.read(getattr(self, name)))

    @classmethod
    def of(cls, values: Mapping[str, Any] | Namespace) -> Self:
        """Of what ``values`` has of this class's options; the rest has its defaults."""
        found = vars(values) if isinstance(values, Namespace) else values
        return cls(**{name: found[name] for name in options_of(cls) if name in found})

    def check(self) -> None:
        """Refuse options that contradict each other, before anything is loaded."""

    def check_files(self) -> None:
        """Refuse files that the options name and that are of no use, when a run begins."""

    def with_(self, **changes: Any) -> Self:
        """The same options with some changed."""
        return dataclasses.replace(self, **changes)

    def given(self) -> dict[str, Any]:
        """The options whose values are not the defaults."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        defaults = {name: one.default for name, one in options_of(type(self)).items()}
        return {name: value for name, value in values.items() if value != defaults[name]}


def check_numbers(cls: type[Options], values: Namespace) -> None:
    """Hold the numbers that another parser read to the ranges of a class's options."""
    for name, one in options_of(cls).items():
        value = getattr(values, name, None)
        if isinstance(value, int | float) and not one.choices:
            one.read(value)


def read_yaml(cls: type[Options], path: str, program: str) -> dict[str, Any]:
    """The options that a YAML file gives a program, ``name: value``, as they stand there."""
    import yaml

    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
        found, lines = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise UserError(f"--config {file}: lists in lists without end") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: 2024-13-45, not UTF-8
        reason = " ".join(str(error).split())
        raise UserError(f"--config {file}: {reason}") from None
    if not isinstance(found, dict) or not isinstance(lines, yaml.MappingNode):
        raise UserError(f"--config {file}: must hold lines of the form option: value")
    names = {name: one.name for one in options_of(cls).values() for name in (one.name, *one.names)}
    for name in found:
        if name not in names:
            hint = suggestion(name, options_of(cls)) or ": is this the file of another program?"
            raise UserError(f"--config {file}: {program} has no option {name!r}{hint}")
    given = [names.get(key.value) for key, _ in lines.value]
    for name in filter(None, given):
        if given.count(name) > 1:
            raise UserError(f"--config {file}: {name} is given twice")
    return {names[name]: value for name, value in found.items()}
