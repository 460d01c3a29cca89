"""The command-line flags that the training programs share, each declared once.

Names are Safe-RLHF's; what Panacea adds is in ``algorithms/arguments.py``.
"""

from __future__ import annotations

import argparse
from typing import Any

from safe_rlhf_panacea.configs.kinds import *  # noqa: F403
from safe_rlhf_panacea.configs.kinds import boolean, chat_template
from safe_rlhf_panacea.configs.parser import ArgumentParser as ArgumentParser


def add_template_argument(parser: argparse.ArgumentParser, *, of_adapter: bool = False) -> None:
    """How conversations are written; a program that loads an adapter knows it from there."""
    parser.add_argument(
        "--chat_template",
        type=chat_template,
        default=None if of_adapter else "auto",
        metavar="TEMPLATE",
        help="auto: the tokenizer's own, else Safe-RLHF's; safe-rlhf; none: the prompt alone; raw: "
        "and its control tokens; a jinja file"
        + (" (default: the adapter's)" if of_adapter else ""),
    )


def add_flag(group: Any, name: str, default: bool, text: str) -> None:
    """A boolean that may be given bare (``--bf16``) or with a value (``--bf16 true``)."""
    group.add_argument(name, type=boolean, nargs="?", const=True, default=default, help=text)
