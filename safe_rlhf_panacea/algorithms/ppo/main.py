"""The command line of Panacea-PPO."""

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
from safe_rlhf_panacea.base import arguments, backend
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.rollouts.arguments import add_engine_arguments, check_engine

PROGRAM = "python -m safe_rlhf_panacea.algorithms.ppo"


def _add_ppo_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ppo")
    add_rollout_arguments(group, responses=1, kl_coeff=0.02)
    for flag, default, text in (
        ("clip_range_score", 50.0, "per-token rewards are clipped to ± this"),
        ("clip_range_value", 5.0, "values are clipped to ± this around the old ones"),
    ):
        group.add_argument(f"--{flag}", type=arguments.positive_float, default=default, help=text)
    text = "zero mean and unit variance over an update, or what one rollout has of it"
    arguments.add_flag(group, "--whiten_advantages", False, text)


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program; defaults are Table 1's, but precision and recomputation."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Train one model for the whole Pareto front of several rewards, with PPO.

        Defaults are the paper's Table 1, except that bf16, tf32, actor_gradient_checkpointing and
        critic_gradient_checkpointing are off, so that a CPU runs; bash/panacea_ppo.sh sets them.
        """,
        f"""
        {PROGRAM} --actor_model_name_or_path runs/sft \\
          --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
          --reward_scales harmless=5 --train_datasets prompts:1:prompts.jsonl \\
          --output_dir runs/panacea-ppo
        """,
    )
    parser.add_argument(
        "--actor_model_name_or_path", type=arguments.filled, required=True, help="the SFT model"
    )
    add_reward_arguments(parser, required=True)
    _add_ppo_arguments(parser)
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser, ptx=True)
    arguments.add_training_arguments(parser, epochs=2, accumulation=2)
    arguments.add_schedule_arguments(parser, prefix="actor_", lr=2e-3, weight_decay=0.01)
    arguments.add_schedule_arguments(parser, prefix="critic_", lr=1e-3, scheduler="constant")
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    add_panacea_arguments(parser, rewards=True)
    add_engine_arguments(parser)
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags: this program's, or Safe-RLHF's own where that is underneath.

    ``reward_specs`` holds the objectives in the order of λ.
    """
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.algorithms.ppo import upstream

        return upstream.parse_arguments(argv, add_reward_arguments)
    args = build_parser().parse_args(argv)
    read_rewards(args)
    check_engine(args)
    return args


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    calibrate_rewards(args)
    from safe_rlhf_panacea.algorithms.ppo.trainer import PanaceaPPOTrainer
    from safe_rlhf_panacea.algorithms.starting import prepare_run
    from safe_rlhf_panacea.base.setup import run_to_end

    run_to_end(PanaceaPPOTrainer(args, *prepare_run(args, PROGRAM)))
