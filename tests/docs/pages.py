"""The blocks of Markdown pages, and the commands that a shell would run in them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("docs/*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "eval/README.md")),
]
# What a block of commands begins with, where nothing names its language.
COMMAND = re.compile(
    r"(\w+=\S* )*(panacea|python|bash|make|pip|for|curl|llama-server|vllm|git|docker|\w+=runs)\b"
)
FENCE = re.compile(r"```(\w*)(?: +title=\"([^\"]*)\")?")
# Without a PATH nothing is found, and so nothing is run: every command comes here.
RECORD = 'command_not_found_handle() { printf "%s\\0" "$@" >&3; printf "\\1\\0" >&3; }\n'


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    language: str  # as the page names it; ``bash`` for an indented block of commands
    title: str  # as the page shows it, empty without one
    line: int  # where it begins in the page, from 1
    text: str  # without the indentation or the fence


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, fenced or indented."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        start, fence = number, FENCE.fullmatch(lines[number])
        number += 1
        if fence:
            end = lines.index("```", number)
            yield Block(fence[1], fence[2] or "", start + 1, "\n".join(lines[number:end]))
            number = end + 1
        elif lines[start].startswith("    ") and not (start and lines[start - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
                number += 1
            text = "\n".join(line[4:] for line in lines[start:number]).strip()
            first = next((line for line in text.splitlines() if not line.startswith("#")), "")
            yield Block("bash" if COMMAND.match(first) else "", "", start + 1, text)


def commands(block: Block, folder: Path) -> list[list[str]]:
    """The words of every command that bash would run in a block and a folder; it runs none."""
    record = folder / "recorded"
    with record.open("wb") as recorded:
        done = subprocess.run(
            ["/bin/bash", "-uc", f"exec 3>{record}\n{RECORD}{block.text}"],
            cwd=folder,
            env={"PATH": "/no/such/folder", "HOME": str(folder)},
            stdout=recorded,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, f"line {block.line}: {done.stderr}"
    found = record.read_text(encoding="utf-8").split("\1\0")[:-1]
    return [words.split("\0")[:-1] for words in found]
