"""The parser under every program: errors in one line, and a suggestion for a misspelt flag."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn

from safe_rlhf_panacea.configs.kinds import boolean
from safe_rlhf_panacea.printing import printable_line


def encodable(text: str) -> str:
    """Text that files and tokenizers take: bytes that are not UTF-8 arrive as half surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is not UTF-8 text") from None
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
                close = get_close_matches(name, flags, n=1, cutoff=0.7)
                hint = f": did you mean {close[0]}?" if close else ""
                self.error(f"there is no flag {name}{hint}")
        return super().parse_args(words, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Argparse's; text that is not UTF-8 is refused, names of files too.

        Records and cards, which are UTF-8, name them.
        """
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            try:
                encodable(word)
            except argparse.ArgumentTypeError as error:
                self.error(str(error))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        self.exit(2, f"error: {printable_line(message)} (see {self.prog} --help)\n")


def add_flag(group: Any, name: str, default: bool, text: str) -> None:
    """A boolean that may be given bare (``--bf16``) or with a value (``--bf16 true``)."""
    group.add_argument(name, type=boolean, nargs="?", const=True, default=default, help=text)
