"""The command line of Panacea-DPO."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.algorithms.arguments import add_panacea_arguments, check_panacea
from safe_rlhf_panacea.base import arguments, backend
from safe_rlhf_panacea.errors import UserError, one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.dpo"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program; defaults are Table 2's, but precision and recomputation."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Train one model for the whole Pareto front of several objectives, with DPO.

        A pair carries labels of its objectives (better_<objective>: 0, 1 or null), or is one of a
        data set of one objective, whose chosen response is better for that (helpful=chosen.jsonl).
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
    parser.add_argument(
        "--objectives", nargs="+", help="in the order of λ; default: as --train_datasets names them"
    )
    parser.add_argument(
        "--scale_coeff", type=arguments.positive_float, default=0.1, help="β of DPO"
    )
    arguments.add_flag(
        parser, "--upstream_dpo_slice", False, "sum the tokens that Safe-RLHF's loss sums"
    )
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser, form="[objective=]name[:proportion[:path]]")
    arguments.add_training_arguments(parser, epochs=1)
    arguments.add_schedule_arguments(parser, lr=2e-4, weight_decay=0.05)
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    add_panacea_arguments(parser)
    return parser


def named_objectives(specs: Sequence[str]) -> list[str]:
    """The objectives that data sets are named for, each once."""
    from safe_rlhf_panacea.base.datasets.specs import read_specs

    return list(dict.fromkeys(s.objective for s in read_specs(specs) if s.objective is not None))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags: this program's, or Safe-RLHF's own where that is underneath."""
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.algorithms.dpo import upstream

        return upstream.parse_arguments(argv)
    args = build_parser().parse_args(argv)
    named = named_objectives(args.train_datasets)
    args.objectives = args.objectives or named
    if not args.objectives:
        raise UserError("--objectives is missing, and --train_datasets names none (helpful=PATH)")
    check_panacea(args, tuple(args.objectives))
    for name in [*named, *(named_objectives(args.eval_datasets) if args.eval_datasets else ())]:
        if name not in args.objectives:
            raise UserError(f"a data set is named for {name!r}, which is none of --objectives")
    return args


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    from safe_rlhf_panacea.algorithms.dpo.trainer import PanaceaDPOTrainer
    from safe_rlhf_panacea.algorithms.starting import prepare_run
    from safe_rlhf_panacea.base.setup import run_to_end

    run_to_end(PanaceaDPOTrainer(args, *prepare_run(args, PROGRAM)))
