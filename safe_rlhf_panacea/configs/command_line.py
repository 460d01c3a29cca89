"""Command lines of classes of options: flags, ``--config FILE``, ``--help``; argparse parses."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import Option, Options
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import printable_line, suggestion

AnyOptions = TypeVar("AnyOptions", bound=Options)
CONFIG = "config"


class Program(Generic[AnyOptions]):
    """A program's command line, which gives its options.

    Bad command lines end the program after one line that says what is wrong; a bad ``--config``
    and options that contradict each other are a ``UserError``.

    Args:
        cls: the class of its options.
        name: how it is called.
        description: what it does, for ``--help``; default: the class's docstring.
        example: a call of it.
    """

    def __init__(
        self, cls: type[AnyOptions], name: str, description: str = "", example: str = ""
    ) -> None:
        """Describe the program; no parser is made yet."""
        self.cls, self.name = cls, name
        self._about = (description or inspect.getdoc(cls) or "", example)

    def parser(self, *, config: bool = True) -> ArgumentParser:
        """Its flags, with ``--config`` or without."""
        usage = ["%(prog)s [-h]"]
        places = ["[further options]"]
        for one in self.cls.OPTIONS.values():
            shown = one.metavar or one.name
            if one.positional:
                places.append(shown if one.required else f"[{shown}]")
            elif one.required:
                usage.append(f"{one.flag} …")
        parser = ArgumentParser(self.name, *self._about, usage=" ".join(usage + places))
        if config:
            text = "YAML with lines of the form option: value; flags win over it"
            parser.add_argument(f"--{CONFIG}", metavar="FILE", type=kinds.filled, help=text)
        add_options(parser, self.cls)
        return parser

    def given(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """The options that a command line and its ``--config`` give, by name."""
        words = sys.argv[1:] if argv is None else list(argv)
        parser = self.parser()
        if any(word.partition("=")[0] == f"--{CONFIG}" for word in words):
            for action in parser._actions:
                action.required = False  # the file may give it
        found = _without_unset(parser.parse_args(words, self._unset()))
        if (file := found.pop(CONFIG, None)) is None:
            return found
        found = {**_read_yaml(self.cls, file, self.name), **found}
        required = (one for one in self.cls.OPTIONS.values() if one.required)
        if missing := [one.flag for one in required if found.get(one.name) is None]:
            parser.error(f"the following arguments are required: {', '.join(missing)}")
        return found

    def read_own(self, argv: Sequence[str] | None = None) -> tuple[AnyOptions, list[str]]:
        """The options among the words of another program, and the rest, ``--config`` too."""
        space, rest = self.parser(config=False).parse_known_args(argv, self._unset())
        return self.cls(**_without_unset(space)), rest

    def read(self, argv: Sequence[str] | None = None) -> AnyOptions:
        """The checked options of a command line; None: this process's."""
        options = self.cls(**self.given(argv))
        options.check()
        return options

    def _unset(self) -> argparse.Namespace:
        """A namespace that keeps the parser from filling in defaults."""
        return argparse.Namespace(**dict.fromkeys(self.cls.OPTIONS))


def _without_unset(space: argparse.Namespace) -> dict[str, Any]:
    """What a command line gives: a flag that is left out is None, a place that is none or []."""
    return {name: value for name, value in vars(space).items() if value not in (None, [])}


def _read_yaml(cls: type[Options], path: str, program: str) -> dict[str, Any]:
    """The options that a YAML file gives a program, ``name: value``, as they stand there."""
    import yaml

    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
        found, lines = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise UserError(f"--config {file}: lists in lists without end") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: 2024-13-45, not UTF-8
        raise UserError(f"--config {file}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not isinstance(lines, yaml.MappingNode):
        raise UserError(f"--config {file}: must hold lines of the form option: value")
    names = {name: one.name for one in cls.OPTIONS.values() for name in (one.name, *one.names)}
    for name in found:
        if name not in names:
            hint = suggestion(name, cls.OPTIONS) or ": is this the file of another program?"
            raise UserError(f"--config {file}: {program} has no option {name!r}{hint}")
    given = [names.get(key.value) for key, _ in lines.value]  # None: YAML's own <<, say
    for name in filter(None, given):
        if given.count(name) > 1:
            raise UserError(f"--config {file}: {name} is given twice")
    return {names[name]: value for name, value in found.items()}


def add_options(
    parser: argparse.ArgumentParser,
    cls: type[Options],
    *,
    only: Sequence[type[Options]] | None = None,
    names: Collection[str] = (),
) -> None:
    """Add a flag for every option of a class, those of one title together.

    ``only`` names the classes above it whose options are added, ``names`` further options. Where a
    flag is not given, the parser's namespace has the default.
    """
    sections: dict[str, Any] = {"": parser}
    wanted = {name for part in only or (cls,) for name in part.OPTIONS} | set(names)
    for one in cls.OPTIONS.values():
        if one.name in wanted:
            if one.group not in sections:
                sections[one.group] = parser.add_argument_group(one.group)
            _add_option(sections[one.group], one)


def _add_option(section: Any, one: Option) -> None:
    about: dict[str, Any] = {"default": one.default, "help": one.text.replace("%", "%%")}
    about["type"] = type(one.choices[0]) if one.choices else one.kind
    if one.choices:
        about["choices"] = one.choices
    if one.metavar is not None:
        about["metavar"] = one.metavar
    if one.repeat:
        about["action"] = "append"
    elif one.several:
        about["nargs"] = "+" if one.required or not one.positional else "*"
    elif one.kind is kinds.boolean:  # bare (--bf16), or with a value (--bf16 true)
        about |= {"nargs": "?", "const": True}
    elif one.positional and not one.required:
        about["nargs"] = "?"
    if one.positional:
        section.add_argument(one.name, **about)
    else:
        names = (f"--{name}" for name in (one.name, *one.names))
        section.add_argument(*names, dest=one.name, required=one.required, **about)


def add_flag(group: Any, name: str, default: bool, text: str) -> None:
    """A boolean that may be given bare (``--bf16``) or with a value (``--bf16 true``)."""
    group.add_argument(name, type=kinds.boolean, nargs="?", const=True, default=default, help=text)


def encodable(text: str) -> str:
    """Text that files and tokenizers take: bytes that are not UTF-8 arrive as half surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!a} is not UTF-8 text") from None
    return text


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """The description as it stands, and every default that the help does not name itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if action.required or not action.option_strings or "default" in text:
            return text
        if default in (None, (), [], argparse.SUPPRESS):
            return text
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})".strip()


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no abbreviations."""

    def __init__(self, prog: str, description: str, example: str, **kwargs: Any) -> None:
        """Describe the program and show how it is called."""
        super().__init__(
            prog=prog,
            description=textwrap.dedent(description),
            epilog="example:\n" + textwrap.indent(textwrap.dedent(example).strip(), "  "),
            formatter_class=_Formatter,
            allow_abbrev=False,
            **kwargs,
        )
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own: not -1e-5

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Argparse's, but a flag that there is not is told before one that is missing."""
        words = sys.argv[1:] if args is None else list(args)
        for word in takewhile(lambda word: word != "--", words):
            name, flags = word.partition("=")[0], self._option_string_actions
            if word.startswith("--") and " " not in word and name not in flags:
                self.error(f"there is no flag {name}{suggestion(name, flags)}")
        return super().parse_args(words, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Argparse's; text that is not UTF-8 is refused, which no record or card could name."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            try:
                encodable(word)
            except UserError as error:
                self.error(str(error))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        self.exit(2, f"error: {printable_line(message)} (see {self.prog} --help)\n")
