"""Short prompts for training and for evaluation: the phrases of ``prompts.yaml`` by its topics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from safe_rlhf_panacea.configs import Options, Program, option
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.small.prompts"
_DATA = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))
TOPICS: dict[str, list[str]] = _DATA["topics"]  # by split: train, tune, eval


def rows(split: str) -> list[dict[str, str]]:
    """The prompts of a split with their topics: phrasings of one topic are no independent data."""
    return [
        {"prompt": phrase.format(topic), "topic": topic}
        for topic in TOPICS[split]
        for phrase in _DATA["phrases"]
    ]


def write_prompts(folder: Path) -> dict[str, Path]:
    """Write ``prompts-<split>.jsonl``, and return the files by split."""
    files = {split: folder / f"prompts-{split}.jsonl" for split in TOPICS}
    for split, file in files.items():
        atomic_write_text(file, "".join(json.dumps(row) + "\n" for row in rows(split)))
    return files


class PromptsOptions(Options):
    """Write short prompts in three files, for training, choosing and evaluating."""

    output_dir: str = option(required=True)


COMMAND = Program(PromptsOptions, PROGRAM, example=f"{PROGRAM} --output_dir runs/real/rules")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the prompts of all splits to a folder."""
    folder = Path(COMMAND.read(argv).output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in write_prompts(folder).items():
        say(f"{path}: {len(rows(split))} prompts")


if __name__ == "__main__":
    main()
