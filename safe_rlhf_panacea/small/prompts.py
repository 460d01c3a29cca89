"""Short prompts for training and for evaluation: phrases by topics.

No topic is in two splits, so that an evaluation is of topics that no training step has seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safe_rlhf_panacea.base.arguments import ArgumentParser, filled
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.small.prompts"

PHRASES = (
    "What is it like to spend a day on {}?",
    "In your opinion, is {} worth the effort?",
    "Say something about {}.",
    "My friend keeps talking about {}. What should I know?",
)
# Pleasant ones, tiresome ones and some of which one can think either way.
TOPICS: dict[str, tuple[str, ...]] = {
    "train": (
        "baking bread",
        "filing taxes",
        "learning the violin",
        "sorting old letters",
        "painting a fence",
        "night shifts",
        "keeping bees",
        "moving a piano",
        "long train journeys",
        "collecting stamps",
        "washing windows",
        "writing a diary",
        "repairing bicycles",
        "waiting in a queue",
        "sailing small boats",
    ),
    # What settings were chosen with, and what the front is shown with while training.
    "tune": (
        "digging a pond",
        "choir practice",
        "cleaning the attic",
        "chess by mail",
    ),
    "eval": (
        "pruning apple trees",
        "assembling furniture",
        "studying maps",
        "ironing shirts",
        "watching birds",
        "mending socks",
        "carving wood",
        "planning a wedding",
        "feeding pigeons",
        "cleaning an oven",
        "walking in the rain",
        "learning sign language",
        "visiting museums",
        "commuting by bus",
        "growing tomatoes",
        "polishing shoes",
        "camping in autumn",
        "reading poetry aloud",
        "packing suitcases",
        "playing bridge",
        "shovelling snow",
        "making jam",
        "proofreading contracts",
        "cold showers",
    ),
}


def prompts(split: str) -> Iterator[str]:
    """The prompts of ``train``, ``tune`` or ``eval``."""
    return (row["prompt"] for row in rows(split))


def rows(split: str) -> Iterator[dict[str, str]]:
    """The prompts of a split with their topics: phrasings of one topic are no independent data."""
    for topic in TOPICS[split]:
        for phrase in PHRASES:
            yield {"prompt": phrase.format(topic), "topic": topic}


def write_prompts(folder: Path) -> dict[str, Path]:
    """Write ``prompts-<split>.jsonl``, and return the files by split."""
    files = {}
    for split in TOPICS:
        files[split] = folder / f"prompts-{split}.jsonl"
        lines = [json.dumps(row) + "\n" for row in rows(split)]
        atomic_write_text(files[split], "".join(lines))
    return files


def build_parser() -> ArgumentParser:
    """The flags of this program."""
    text = "Write short prompts in three files, for training, choosing and evaluating."
    parser = ArgumentParser(PROGRAM, text, f"{PROGRAM} --output_dir runs/real/rules")
    parser.add_argument("--output_dir", type=filled, required=True)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the prompts."""
    folder = Path(build_parser().parse_args(argv).output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in write_prompts(folder).items():
        say(f"{path}: {len(list(prompts(split)))} prompts")


if __name__ == "__main__":
    main()
