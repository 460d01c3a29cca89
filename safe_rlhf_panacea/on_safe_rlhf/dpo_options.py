"""Panacea-DPO's command line where Safe-RLHF is underneath: its flags, and Panacea's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_options
from safe_rlhf_panacea.configs.options import check_numbers
from safe_rlhf_panacea.configs.panacea import LabelPreferenceOptions, check_panacea
from safe_rlhf_panacea.on_safe_rlhf import program

PROGRAM = "python -m safe_rlhf_panacea.algorithms.dpo"
NAMES = ("objectives", "upstream_dpo_slice")


def build_parser() -> ArgumentParser:
    """The flags that Safe-RLHF's parser does not know; none of them is required."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Panacea-DPO on Safe-RLHF: its launch scripts run with this module in place of theirs.
        """,
        f"deepspeed --module {PROGRAM.split()[-1]} --model_name_or_path … --train_datasets …",
        add_help=False,
    )
    add_options(
        parser, DPOConfig, only=(*program.PANACEA_OPTIONS, LabelPreferenceOptions), names=NAMES
    )
    parser.set_defaults(objectives=["helpful", "harmless"])  # its data's: better and safer
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> Any:
    """Read and check the flags."""
    args = program.parse_arguments("safe_rlhf.algorithms.dpo.main", build_parser(), argv)
    check_numbers(DPOConfig, args)
    check_panacea(args, tuple(args.objectives))
    return args
