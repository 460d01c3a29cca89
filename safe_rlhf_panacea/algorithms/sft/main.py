"""The command line of Panacea-SFT."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.algorithms.arguments import add_panacea_arguments, check_panacea
from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.sft"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program; the adapter's defaults are those of the other programs."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Train one model for the whole Pareto front of several objectives, with supervised text.

        Every objective has data sets of its own: J_i = E[log π(y|x)] over them (the SFT objective
        of the paper's second version). A data set under several names counts for all of them,
        and is read once. Of pairs, an objective learns the responses that its labels prefer.
        """,
        f"""
        {PROGRAM} --model_name_or_path runs/sft \\
          --train_datasets helpful=supervised:1:a.jsonl harmless=supervised:1:b.jsonl \\
          --output_dir runs/panacea-sft
        """,
    )
    parser.add_argument(
        "--model_name_or_path", type=arguments.filled, required=True, help="folder or hub name"
    )
    parser.add_argument(
        "--objectives", nargs="+", help="in the order of λ; default: as --train_datasets names them"
    )
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser, form="objective=name[:proportion[:path]]")
    arguments.add_training_arguments(parser, epochs=1)
    arguments.add_schedule_arguments(parser, lr=2e-4, weight_decay=0.05)
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    add_panacea_arguments(parser)
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags."""
    args = build_parser().parse_args(argv)
    from safe_rlhf_panacea.algorithms.sft.data import read_named_specs

    named = read_named_specs("--train_datasets", args.train_datasets)
    if args.objectives is None:
        args.objectives = list(dict.fromkeys(name for names in named.values() for name in names))
    check_panacea(args, tuple(args.objectives))
    read_named_specs("--train_datasets", args.train_datasets, args.objectives)
    if args.eval_datasets is not None:
        read_named_specs("--eval_datasets", args.eval_datasets, args.objectives)
    return args


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    from safe_rlhf_panacea.algorithms.sft.trainer import PanaceaSFTTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    ds_train_config, _ = prepare_run(args, PROGRAM)
    run_to_end(PanaceaSFTTrainer(args, ds_train_config))
