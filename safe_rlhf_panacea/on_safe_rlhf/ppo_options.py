"""Panacea-PPO's command line where Safe-RLHF is underneath: its flags, and Panacea's.

The reward models are named as on the port (``--reward_models helpful=PATH harmless=PATH``), or
as in Safe-RLHF's ``ppo-lag.sh``: ``--reward_model_name_or_path`` is then ``helpful``, and
``--cost_model_name_or_path``, with sign -1, ``harmless``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from safe_rlhf_panacea.configs.algorithms import PPOConfig
from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_options
from safe_rlhf_panacea.configs.options import check_numbers
from safe_rlhf_panacea.configs.panacea import RewardPreferenceOptions, check_panacea
from safe_rlhf_panacea.configs.rewarded import RewardOptions
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.on_safe_rlhf import program
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.spec import apply_calibration, reward_specs

PROGRAM = "python -m safe_rlhf_panacea.algorithms.ppo"
REWARD, COST = "--reward_model_name_or_path", "--cost_model_name_or_path"
# Flags of ppo.sh and ppo-lag.sh that Panacea has no use for.
IDLE = (
    *("--reward_critic_model_name_or_path", "--cost_critic_model_name_or_path"),
    *("--threshold", "--lambda_init", "--lambda_lr", "--lambda_max"),
    *("--lambda_update_delay_steps", "--episode_cost_window_size", "--normalize_cost"),
)


def build_parser() -> ArgumentParser:
    """The flags that Safe-RLHF's parser does not know; none of them is required."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Panacea-PPO on Safe-RLHF: its launch scripts run with this module in place of theirs.
        """,
        f"deepspeed --module {PROGRAM.split()[-1]} --actor_model_name_or_path … "
        "--reward_models helpful=PATH harmless=PATH --train_datasets …",
        add_help=False,
    )
    add_options(
        parser, PPOConfig, only=(RewardOptions, *program.PANACEA_OPTIONS, RewardPreferenceOptions)
    )
    return parser


def _models(ours: argparse.Namespace, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Name and path of each reward model, in the order of λ."""
    if ours.reward_models:
        return ours.reward_models
    cost = getattr(args, "cost_model_name_or_path", None)
    if cost is None:
        raise UserError(
            f"one reward model is one objective: add --reward_models NAME=PATH NAME=PATH, or {COST}"
        )
    return [("helpful", args.reward_model_name_or_path), ("harmless", cost)]


def parse_arguments(argv: Sequence[str] | None = None) -> Any:
    """Read and check the flags; ``reward_specs`` holds the objectives in the order of λ."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    given = program.flags_of(words)
    ours, _ = parser.parse_known_args(words)
    if ours.reward_models and REWARD not in given:
        words += [REWARD, ours.reward_models[0][1]]  # Safe-RLHF's parser requires it
    name = "ppo_lag" if COST in given else "ppo"
    args = program.parse_arguments(f"safe_rlhf.algorithms.{name}.main", parser, words)
    check_numbers(PPOConfig, args)
    models = _models(ours, args)
    if not ours.reward_models and not args.reward_signs:
        args.reward_signs = [("harmless", "-1")]  # a cost: lower is safer
    args.reward_specs = reward_specs(
        models, args.reward_scales, args.reward_signs, args.reward_shifts, args.objectives
    )
    if args.reward_calibration is not None:
        args.reward_specs = apply_calibration(args.reward_specs, args.reward_calibration)
    check_panacea(args, tuple(spec.name for spec in args.reward_specs))
    idle = [flag for flag in IDLE if flag in given]
    if idle:
        say(f"Panacea-PPO has no use for: {', '.join(idle)}")
    return args
