"""Text from models, data, files and flags on its way to a terminal."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TextIO

# C0 and C1 controls but tab and newline, line separators, marks that reorder text, and halves of
# surrogate pairs, which no terminal's encoding has.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

# What Markdown, as the hub and TensorBoard read it, would take for more than text in a line.
MARKS = re.compile(r"([\\`*_\[\]<>#|~$&])")


def printable(text: object) -> str:
    r"""``text`` with what would steer a terminal written out: ``\u001b[2J``, as JSON has it."""
    return HARMFUL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def printable_line(text: object) -> str:
    """``printable``, and every run of white space one space: a line stays one line."""
    return printable(" ".join(str(text).split()))


def markdown_text(text: object) -> str:
    """``printable_line`` as Markdown that shows it unchanged, also in a table's cell."""
    return MARKS.sub(r"\\\1", printable_line(text))


def suggestion(word: object, known: Iterable[str]) -> str:
    """``: did you mean …?`` for a misspelt word, or nothing where no known one is like it."""
    close = get_close_matches(str(word), list(known), n=1, cutoff=0.7)
    return f": did you mean {close[0]}?" if close else ""


def say(*parts: object, file: TextIO | None = None) -> None:
    """Print what may hold foreign text, at once."""
    file = file or sys.stdout
    try:
        print(*map(printable, parts), file=file, flush=True)
    except OSError as error:  # a full disk, or a reader that is gone
        raise OSError(error.errno, error.strerror, file.name) from error


def quiet_libraries() -> None:
    """Leave the terminal to the program's own lines."""
    from transformers.utils.logging import disable_progress_bar

    name_cpu_accelerator()
    disable_progress_bar()
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")


def name_cpu_accelerator() -> None:
    """Say that this machine has a CPU only, or DeepSpeed guesses it with a warning."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
