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
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:  # doctor.py has to run where packages are missing

    def dataclass_transform(**_: Any) -> Any:
        """Do nothing: only type checkers ask."""
        return lambda decorator: decorator


_BY_TYPE: dict[Any, kinds.Kind] = {
    bool: kinds.boolean,
    int: kinds.positive_int,
    float: kinds.finite_float,
    str: kinds.filled,
}


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of one option of a class.

    Attributes:
        default: its value where none is given.
        text: its help.
        names: further names of the flag.
        metavar: stands for its value in the help; default: as its type or argparse has it.
        required: whether a command line must give it; its type need not name the None that it is
            until then.
        positional: whether a command line gives it by its place, without a flag.
        repeat: of several values: each is given by a flag of its own.
        belongs: ``--flag value`` of another option, without which this one is refused.
        name, group: the field's, and the title of the class that declares it first.
        kind, several, choices: what the type says. A type of ``kinds`` names a function that reads
            a value; others are positive integers, finite numbers and texts that are not empty.
    """

    default: Any = None
    text: str = ""
    names: tuple[str, ...] = ()
    metavar: str | None = None
    required: bool = False
    positional: bool = False
    repeat: bool = False
    belongs: str = ""
    name: str = ""
    group: str = ""
    kind: kinds.Kind = kinds.filled
    several: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def flag(self) -> str:
        """What messages call it."""
        return self.name if self.positional else f"--{self.name}"

    def of_type(self, hint: Any) -> Option:
        """This option with what a type says; of a union the first is what the field has."""
        if get_origin(hint) in (Union, types.UnionType):
            hint = get_args(hint)[0]
        if several := get_origin(hint) in (tuple, Sequence):
            hint = get_args(hint)[0]
        choices: tuple[Any, ...] = ()
        metavars: list[str] = []
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            kind = kinds.one_of(choices)
        elif get_origin(hint) is Annotated:
            _, kind, *metavars = get_args(hint)
        else:
            kind = _BY_TYPE[hint]
        metavar = self.metavar or next(iter(metavars), None)
        return dataclasses.replace(
            self, kind=kind, metavar=metavar, several=several, choices=choices
        )

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


def option(default: Any = None, text: str = "", **about: Any) -> Any:
    """A field of a class of options; ``about`` is what ``Option`` has besides."""
    return Option(default, text, **about)


# Without field_specifiers: to type checkers every option then has a default, as it has.
@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """Base of all classes of options: frozen dataclasses, whose fields are given by name.

    Values are read and checked when one is made; a ``UserError`` names the option and what is
    wrong. ``class Mine(Options, group="…")`` gives the options that the class declares a title.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {}  # by name, in the order in which they are listed

    def __init_subclass__(cls, group: str = "") -> None:
        """Make the class a dataclass, and note its options."""
        found: dict[str, Option] = {}
        for above in reversed(cls.__mro__[1:]):  # as dataclasses do
            found |= getattr(above, "OPTIONS", {})
        for name, hint in inspect.get_annotations(cls, eval_str=True).items():
            declared, known = getattr(cls, name), found.get(name)
            if isinstance(declared, Option):
                title = known.group if known else group
                found[name] = dataclasses.replace(declared, name=name, group=title).of_type(hint)
            else:
                found[name] = dataclasses.replace(found[name], default=declared)
            setattr(cls, name, found[name].default)
        cls.OPTIONS = found
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        """Read every value by its option's kind."""
        for name, one in self.OPTIONS.items():
            object.__setattr__(self, name, one.read(getattr(self, name)))

    def check(self) -> None:
        """Refuse options that contradict each other, before anything is loaded."""
        self.check_belonging(self)

    @classmethod
    def check_belonging(cls, values: Any) -> None:
        """Refuse what belongs to an option that has another value; also of a namespace."""
        for name, one in cls.OPTIONS.items():
            other, _, wanted = one.belongs.removeprefix("--").partition(" ")
            value = getattr(values, name, None)
            is_given = value is not None and value is not False
            if other and is_given and getattr(values, other) != wanted:
                raise UserError(f"{one.flag} belongs to {one.belongs}")

    @classmethod
    def check_foreign(cls, values: Namespace) -> None:
        """Hold what another parser read to the ranges of these options, and to ``belongs``."""
        for name, one in cls.OPTIONS.items():
            value = getattr(values, name, None)
            if isinstance(value, int | float) and not one.choices:
                one.read(value)
        cls.check_belonging(values)

    def check_files(self) -> None:
        """Refuse files that the options name and that are of no use, when a run begins."""

    def with_(self, **changes: Any) -> Self:
        """The same options with some changed."""
        return type(self)(**{**vars(self), **changes})

    def given(self) -> dict[str, Any]:
        """The options whose values are not the defaults."""
        values = {name: getattr(self, name) for name in self.OPTIONS}
        return {name: v for name, v in values.items() if v != self.OPTIONS[name].default}
