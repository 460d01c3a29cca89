"""The flags that Panacea-PPO and Panacea-GRPO share: rewards, rollouts, what is trained on them."""

from __future__ import annotations

import argparse

from safe_rlhf_panacea.algorithms.arguments import check_panacea
from safe_rlhf_panacea.base import arguments


def add_reward_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """What is rewarded, in which units."""
    group = parser.add_argument_group("rewards")
    pair = {"type": arguments.named_value, "nargs": "+"}
    group.add_argument(
        "--reward_models", required=required, metavar="NAME=PATH", help="in the order of λ", **pair
    )
    group.add_argument("--objectives", nargs="+", help="another order of λ than --reward_models'")
    for flag, text in (
        ("scales", "factor on a reward"),
        ("signs", "-1 for a cost model"),
        ("shifts", "subtracted from the score first"),
    ):
        group.add_argument(f"--reward_{flag}", default=[], metavar="NAME=VALUE", help=text, **pair)
    group.add_argument(
        "--reward_calibration", metavar="FILE", help="of evaluation.calibrate: standardise with it"
    )


def add_rollout_arguments(
    group: argparse._ArgumentGroup, *, responses: int, kl_coeff: float
) -> None:
    """Drawing responses and updating on them.

    Args:
        group: where the flags go.
        responses: to each prompt, by default.
        kl_coeff: by default.
    """
    positive, not_negative = arguments.positive_float, arguments.non_negative_float
    for flag, kind, default, text in (
        ("kl_coeff", not_negative, kl_coeff, "weight of the KL term"),
        ("clip_range_ratio", positive, 0.2, "clipping of the probability ratio"),
        ("ptx_coeff", not_negative, 16.0, "weight of the supervised loss (with --ptx_datasets)"),
        (
            *("temperature", not_negative, 1.0),
            "of sampling, and of policy and reference in the losses; 0 is greedy, with losses at 1",
        ),
        ("top_p", arguments.share, 1.0, "nucleus mass of sampling"),
        ("repetition_penalty", positive, 1.0, "of sampling"),
    ):
        group.add_argument(f"--{flag}", type=kind, default=default, help=text)
    for flag, default, text in (
        ("update_iters", 1, "passes over every rollout"),
        ("num_return_sequences", responses, "responses to each prompt"),
        ("per_device_prompt_batch_size", 16, "prompts in a rollout"),
    ):
        group.add_argument(f"--{flag}", type=arguments.positive_int, default=default, help=text)
    arguments.add_flag(group, "--normalize_reward", False, "use the models' own normalisers")


def read_rewards(args: argparse.Namespace) -> None:
    """Set ``reward_specs``, the objectives in the order of λ, and check Panacea's flags."""
    from safe_rlhf_panacea.rewards.spec import reward_specs

    args.reward_specs = reward_specs(
        args.reward_models,
        args.reward_scales,
        args.reward_signs,
        args.reward_shifts,
        args.objectives,
    )
    check_panacea(args, tuple(spec.name for spec in args.reward_specs))


def calibrate_rewards(args: argparse.Namespace) -> None:
    """Standardise the rewards, if asked for."""
    from safe_rlhf_panacea.rewards.calibration import apply_calibration

    if args.reward_calibration is not None:
        args.reward_specs = apply_calibration(args.reward_specs, args.reward_calibration)
