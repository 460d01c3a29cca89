"""The command line of Panacea-DPO."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.algorithms.arguments import add_panacea_arguments, check_panacea
from safe_rlhf_panacea.base import arguments, backend
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.dpo"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program; defaults are Table 2's, but precision and recomputation."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Train one model for the whole Pareto front of several objectives, with DPO.

        Every pair carries one label per objective (better_<objective>: 0, 1 or null).
        Defaults are the paper's Table 2, except that bf16, tf32 and gradient_checkpointing are
        off, so that a CPU runs; bash/panacea_dpo.sh sets them.
        """,
        f"""
        {PROGRAM} --model_name_or_path runs/sft --objectives helpful harmless \\
          --train_datasets pairs:1:pairs.jsonl --output_dir runs/panacea-dpo
        """,
    )
    parser.add_argument(
        "--model_name_or_path", type=arguments.filled, required=True, help="the SFT model"
    )
    parser.add_argument("--objectives", nargs="+", required=True, help="names, in the order of λ")
    parser.add_argument(
        "--scale_coeff", type=arguments.positive_float, default=0.1, help="β of DPO"
    )
    arguments.add_flag(
        parser, "--upstream_dpo_slice", False, "sum the tokens that Safe-RLHF's loss sums"
    )
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser)
    arguments.add_training_arguments(parser, epochs=1)
    arguments.add_schedule_arguments(parser, lr=2e-4, weight_decay=0.05)
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    add_panacea_arguments(parser)
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags: this program's, or Safe-RLHF's own where that is underneath."""
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.algorithms.dpo import upstream

        return upstream.parse_arguments(argv)
    args = build_parser().parse_args(argv)
    check_panacea(args, tuple(args.objectives))
    return args


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    from safe_rlhf_panacea.algorithms.dpo.trainer import PanaceaDPOTrainer
    from safe_rlhf_panacea.algorithms.starting import prepare_run
    from safe_rlhf_panacea.base.setup import run_to_end

    run_to_end(PanaceaDPOTrainer(args, *prepare_run(args, PROGRAM)))
