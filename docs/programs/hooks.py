"""What MkDocs asks for while it builds the site: the page of options, equations, a last check."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

# The sources beside this file are what is described, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safe_rlhf_panacea.command import PROGRAMS, programs

OPTIONS_PAGE = "options.md"
HEADER = """# Options of every program

This page is made from the programs' own parsers when the site is built. `panacea NAME --help`
prints the same. `panacea NAME` and `python -m MODULE` are the same program.

The baselines `rewarded-soups`, `discrete-policies` and `fixed-scaling` take `dpo`, `ppo`, `grpo` or
`sft` as their first word, and then that program's options as well.
"""
# Programs that read their words themselves, with what they take.
WITHOUT_PARSER = {
    "patches": "It takes nothing, or `--module MODULE` with the options of that module: see "
    "[Patches](safe_rlhf.md#patches)."
}
EQUATION = re.compile(
    r'<(div|span) class="arithmatex">(?:\\\[|\\\()(.*?)(?:\\\]|\\\))</\1>', re.DOTALL
)
# What a browser would load from another host when it opens a page.
LOADED = re.compile(
    r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+rel="(?:stylesheet|preconnect)"'
    r'[^>]+href="(?:https?:)?//|<link[^>]+href="(?:https?:)?//[^>]+rel="(?:stylesheet|preconnect)"'
)


class Shown(BaseException):
    """Ends a program at the place where it would print its help."""


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser that a program builds, caught where ``--help`` would print it."""
    found = []

    def keep(self: argparse.ArgumentParser, file: Any = None) -> None:
        found.append(self)
        raise Shown

    with (
        warnings.catch_warnings(),
        patch.object(argparse.ArgumentParser, "print_help", keep),
        patch.object(sys, "argv", [module, "--help"]),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # of runpy: a module is there already
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except Shown:
            return found[0]
    raise RuntimeError(f"{module} has no --help")


def cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([*_`\\])", r"\\\1", " ".join(escaped.split()))


def takes(action: argparse.Action) -> str:
    """What stands behind an option on a command line."""
    if action.choices is not None:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    if action.nargs == 0:
        return ""
    if isinstance(action.default, bool):
        return "`true`, `false`"
    many = " …" if action.nargs in ("+", "*") else ""
    return f"`{action.metavar or action.dest.upper()}`{many}"


def default(action: argparse.Action) -> str:
    """Its default, where it has one to tell."""
    value = action.default
    if value is None or value is argparse.SUPPRESS or action.required:
        return "required" if action.required else ""
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{written}`" if written else ""


def option_rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A table for each group of a parser's options."""
    formatter = argparse.HelpFormatter(parser.prog)  # the parser's own adds the default
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
        ]
        if not actions:
            continue
        title = "" if group.title in ("options", "positional arguments") else f"*{group.title}*"
        yield from (title, "", "| option | takes | default | |", "|---|---|---|---|")
        for action in actions:
            names = ", ".join(f"`{name}`" for name in action.option_strings or [action.dest])
            text = cell(formatter._expand_help(action)) if action.help else ""
            yield f"| {names} | {takes(action)} | {default(action)} | {text} |"
        yield ""


def options_page() -> str:
    """Every program's options, as Markdown."""
    lines = [HEADER]
    for heading in PROGRAMS:
        lines += [f"## {heading}", ""]
        for program in programs(heading):
            lines += [f"### panacea {program.name}", ""]
            lines += [f"`python -m {program.module}`: {program.text}.", ""]
            if program.name in WITHOUT_PARSER:
                lines += [WITHOUT_PARSER[program.name], ""]
            else:
                lines += option_rows(parser_of(program.module))
    return "\n".join(lines)


def on_files(files: Any, config: Any) -> Any:
    """Add the page of options."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, OPTIONS_PAGE, content=options_page()))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Equations as MathML, which browsers draw by themselves."""
    from html import unescape

    from latex2mathml.converter import convert

    def replace(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(unescape(match[2]), display=display)

    return EQUATION.sub(replace, html)


def on_post_build(config: Any) -> None:
    """Refuse a site that would load something from another host."""
    from mkdocs.exceptions import PluginError

    for page in Path(config.site_dir).rglob("*.html"):
        if found := LOADED.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page.name} loads from another host: {found[0]}")
