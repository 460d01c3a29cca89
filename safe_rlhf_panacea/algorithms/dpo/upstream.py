"""Panacea-DPO's command line where Safe-RLHF is underneath: its flags, and Panacea's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.algorithms.arguments import add_panacea_arguments, check_panacea
from safe_rlhf_panacea.algorithms.dpo import main
from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.base.upstream import program

PROGRAM = "python -m safe_rlhf_panacea.algorithms.dpo"


def build_parser() -> argparse.ArgumentParser:
    """The flags that Safe-RLHF's parser does not know; none of them is required."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Panacea-DPO on Safe-RLHF: its launch scripts run with this module in place of theirs.
        """,
        f"deepspeed --module {PROGRAM.split()[-1]} --model_name_or_path … --train_datasets …",
        add_help=False,
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        default=["helpful", "harmless"],
        help="names, in the order of λ; Safe-RLHF's data has helpful (better) and harmless (safer)",
    )
    arguments.add_flag(
        parser, "--upstream_dpo_slice", False, "sum the tokens that Safe-RLHF's own loss sums"
    )
    arguments.add_template_argument(parser)
    add_panacea_arguments(parser)
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags."""
    args = program.parse_arguments("safe_rlhf.algorithms.dpo.main", build_parser(), argv)
    arguments.check_ranges(args, main.build_parser())
    check_panacea(args, tuple(args.objectives))
    return args
