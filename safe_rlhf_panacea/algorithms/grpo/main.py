"""The command line of Panacea-GRPO."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.algorithms.arguments import add_panacea_arguments
from safe_rlhf_panacea.algorithms.rl_arguments import (
    add_reward_arguments,
    add_rollout_arguments,
    calibrate_rewards,
    read_rewards,
)
from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.rollouts.arguments import add_engine_arguments, check_engine

PROGRAM = "python -m safe_rlhf_panacea.algorithms.grpo"
ADVANTAGES = ("normalize_then_sum", "sum_then_normalize")


def _add_grpo_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("grpo")
    add_rollout_arguments(group, responses=8, kl_coeff=0.05)
    group.add_argument(
        "--advantage",
        choices=ADVANTAGES,
        default=ADVANTAGES[0],
        help="each reward normalised in its group of responses and then weighted with λ (GDPO), or "
        "weighted first (GRPO)",
    )
    arguments.add_flag(
        group,
        "--equal_steps",
        False,
        "with normalize_then_sum: divide by the standard deviation of the sum, which depends on λ "
        "and on how the rewards are correlated",
    )
    group.add_argument(
        "--kl_in",
        choices=("loss", "reward"),
        default="loss",
        help="where the divergence from the initial model counts: at every token, or off each "
        "response's rewards",
    )


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Train one model for the whole Pareto front of several rewards, with GRPO: groups of
        responses to each prompt, compared with each other, and no critic.

        The paper has no GRPO; the defaults are a choice.
        """,
        f"""
        {PROGRAM} --actor_model_name_or_path runs/sft \\
          --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
          --train_datasets prompts:1:prompts.jsonl --num_return_sequences 8 \\
          --output_dir runs/panacea-grpo
        """,
    )
    parser.add_argument(
        "--actor_model_name_or_path", type=arguments.filled, required=True, help="the SFT model"
    )
    add_reward_arguments(parser, required=True)
    _add_grpo_arguments(parser)
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser, ptx=True)
    arguments.add_training_arguments(parser, epochs=1, accumulation=8)
    arguments.add_schedule_arguments(parser, prefix="actor_", lr=1e-3, weight_decay=0.01)
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    add_panacea_arguments(parser, rewards=True)
    add_engine_arguments(parser)
    return parser


def check_groups(args: argparse.Namespace) -> None:
    """What the responses to a prompt must fit into.

    Raises:
        UserError: a group of one, one that a micro-batch cannot hold whole, or one without spread.
    """
    from safe_rlhf_panacea.base.trainers.rl_data import rows_of_rollout

    group, rows = args.num_return_sequences, args.per_device_train_batch_size
    if group == 1:
        raise UserError(
            "--num_return_sequences is 1: GRPO compares the responses to a prompt with each other "
            "and needs at least 2"
        )
    if rows % group:
        raise UserError(
            f"--per_device_train_batch_size {rows} is no multiple of --num_return_sequences "
            f"{group}: a micro-batch holds whole groups"
        )
    rows_of_rollout(args)
    if args.temperature == 0:
        raise UserError("--temperature 0 draws the same response to a prompt again and again")
    if args.equal_steps and args.advantage != ADVANTAGES[0]:
        raise UserError(f"--equal_steps belongs to --advantage {ADVANTAGES[0]}")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags; ``reward_specs`` holds the objectives in the order of λ."""
    args = build_parser().parse_args(argv)
    read_rewards(args)
    check_groups(args)
    check_engine(args)
    return args


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    calibrate_rewards(args)
    from safe_rlhf_panacea.algorithms.grpo.trainer import PanaceaGRPOTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    run_to_end(PanaceaGRPOTrainer(args, *prepare_run(args, PROGRAM)))
