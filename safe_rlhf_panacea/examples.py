"""Prompts to try an adapter with, kept in its folder: the page and the chat offer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.shapes import misfit

EXAMPLES_FILE = "examples.json"


@dataclass(frozen=True)
class Examples:
    """What a person who asks an adapter is told first.

    Attributes:
        prompts: that the adapter can answer.
        note: a sentence about what the model is and is not; may be empty.
    """

    prompts: Sequence[str] = field(default_factory=list)
    note: str = ""


def write_examples(adapter: str | Path, examples: Examples) -> None:
    """Write ``examples.json`` into an adapter's folder."""
    atomic_write_json(Path(adapter) / EXAMPLES_FILE, asdict(examples))


def read_examples(adapter: str | Path) -> Examples:
    """The examples of an adapter's folder; empty where it has none.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(adapter) / EXAMPLES_FILE
    if not path.exists():
        return Examples()
    content = read_json(path)
    if wrong := misfit(content, {"prompts": [str], "note": str}):
        raise UserError(f"{path}: {wrong}")
    return Examples(content["prompts"], content["note"])
