"""The command line of reward modelling."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.base.values.reward"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        "Train a reward model for one objective on labelled pairs (Bradley-Terry).",
        f"""
        {PROGRAM} --model_name_or_path runs/sft --objective helpful \\
          --train_datasets pairs:1:pairs.jsonl --output_dir runs/reward-helpful
        """,
    )
    parser.add_argument(
        "--model_name_or_path", type=arguments.filled, required=True, help="folder or hub name"
    )
    parser.add_argument(
        "--objective",
        type=arguments.objective_name,
        required=True,
        help="whose labels to learn, e.g. helpful",
    )
    parser.add_argument(
        "--regularization",
        type=arguments.non_negative_float,
        default=0.0,
        help="weight of mean score²",
    )
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser)
    arguments.add_training_arguments(parser, epochs=2)
    arguments.add_schedule_arguments(parser, lr=2e-5, weight_decay=0.1)
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = build_parser().parse_args(argv)
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end
    from safe_rlhf_panacea.base.values.reward.trainer import RewardTrainer

    ds_train_config, _ = prepare_run(args, PROGRAM)
    run_to_end(RewardTrainer(args, ds_train_config))
