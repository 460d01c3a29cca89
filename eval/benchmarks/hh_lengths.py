"""Writes ``hh_lengths.json``: how long hh-rlhf's pairs are, as numbers and no text.

Each row has four numbers of tokens, all counted from the start of the sequence: the prompt, what
both sequences share, the better sequence, the worse one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safe_rlhf_panacea.base import LabelledPreferenceDataset
from safe_rlhf_panacea.base.arguments import ArgumentParser, filled, positive_int, seed_int
from safe_rlhf_panacea.base.datasets.base import common_prefix
from safe_rlhf_panacea.base.datasets.template import ChatTemplate
from safe_rlhf_panacea.base.models.pretrained import load_tokenizer
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.io import atomic_write_text

PROGRAM = "python eval/benchmarks/hh_lengths.py"
OUTPUT = Path(__file__).with_suffix(".json")
LONGEST = 1024  # tokens; longer sequences are cut


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(PROGRAM, __doc__ or "", f"{PROGRAM} --pairs a.jsonl.gz --model folder")
    parser.add_argument("--pairs", type=filled, required=True, help="data set of pairs")
    parser.add_argument("--model", type=filled, required=True, help="whose tokenizer counts")
    parser.add_argument("--rows", type=positive_int, default=512)
    parser.add_argument("--seed", type=seed_int, default=0)
    parser.add_argument("--output", type=filled, default=str(OUTPUT))
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Tokenise a random sample and write its lengths."""
    args = build_parser().parse_args(argv)
    tokenizer = load_tokenizer(args.model, LONGEST, "right")
    pairs = LabelledPreferenceDataset(
        [f"pairs:{args.rows}/-1:{args.pairs}"],
        tokenizer=tokenizer,
        template=ChatTemplate.of("safe-rlhf", tokenizer),
        objectives=("helpful", "harmless"),
        seed=args.seed,
    )
    rows = []
    for i in range(len(pairs)):
        better, worse = (pairs[i][f"{name}_input_ids"].tolist() for name in ("better", "worse"))
        shared = common_prefix(better, worse)
        rows.append([int(pairs[i]["prompt_length"]), shared, len(better), len(worse)])
    lines = ",\n".join(str(row) for row in rows)
    atomic_write_text(Path(args.output), f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
