"""The command line of supervised fine-tuning."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.base.finetune"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        "Fine-tune a causal language model on prompts and answers (the SFT stage).",
        f"""
        {PROGRAM} --model_name_or_path base/ --train_datasets supervised:1:sft.jsonl \\
          --output_dir runs/sft --lr 2e-5 --epochs 3
        """,
    )
    parser.add_argument(
        "--model_name_or_path", type=arguments.filled, required=True, help="folder or hub name"
    )
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser)
    arguments.add_training_arguments(parser, epochs=3)
    arguments.add_schedule_arguments(parser, lr=2e-5)
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = build_parser().parse_args(argv)
    from safe_rlhf_panacea.base.finetune.trainer import SupervisedFinetuneTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    ds_train_config, _ = prepare_run(args, PROGRAM)
    run_to_end(SupervisedFinetuneTrainer(args, ds_train_config))
