"""The command line of Panacea-PPO."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from safe_rlhf_panacea.algorithms.arguments import add_panacea_arguments, check_panacea
from safe_rlhf_panacea.algorithms.starting import prepare_run
from safe_rlhf_panacea.base import arguments, backend
from safe_rlhf_panacea.base.setup import run_to_end
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.rewards.calibration import apply_calibration
from safe_rlhf_panacea.rewards.spec import reward_specs

PROGRAM = "python -m safe_rlhf_panacea.algorithms.ppo"


def _add_reward_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
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


def _add_ppo_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ppo")
    positive, not_negative = arguments.positive_float, arguments.non_negative_float
    for flag, kind, default, text in (
        ("kl_coeff", not_negative, 0.02, "weight of the KL term"),
        ("clip_range_ratio", positive, 0.2, "PPO's clipping of the probability ratio"),
        ("clip_range_score", positive, 50.0, "per-token rewards are clipped to ± this"),
        ("clip_range_value", positive, 5.0, "values are clipped to ± this around the old ones"),
        ("ptx_coeff", not_negative, 16.0, "weight of the supervised loss (with --ptx_datasets)"),
        ("temperature", not_negative, 1.0, "of sampling; 0 is greedy"),
        ("top_p", arguments.share, 1.0, "nucleus mass of sampling"),
        ("repetition_penalty", positive, 1.0, "of sampling"),
    ):
        group.add_argument(f"--{flag}", type=kind, default=default, help=text)
    group.add_argument("--update_iters", type=arguments.positive_int, default=1)
    group.add_argument("--num_return_sequences", type=arguments.positive_int, default=1)
    group.add_argument("--per_device_prompt_batch_size", type=arguments.positive_int, default=16)
    arguments.add_flag(group, "--whiten_advantages", False, "zero mean, unit variance per batch")


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
    _add_reward_arguments(parser, required=True)
    arguments.add_flag(parser, "--normalize_reward", False, "use the models' own normalisers")
    _add_ppo_arguments(parser)
    arguments.add_template_argument(parser)
    arguments.add_dataset_arguments(parser, ptx=True)
    arguments.add_training_arguments(parser, epochs=2, accumulation=2)
    arguments.add_schedule_arguments(parser, prefix="actor_", lr=2e-3, weight_decay=0.01)
    arguments.add_schedule_arguments(parser, prefix="critic_", lr=1e-3, scheduler="constant")
    arguments.add_evaluation_arguments(parser)
    arguments.add_output_arguments(parser)
    arguments.add_deepspeed_arguments(parser)
    add_panacea_arguments(parser)
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags: this program's, or Safe-RLHF's own where that is underneath.

    ``reward_specs`` holds the objectives in the order of λ.
    """
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.algorithms.ppo import upstream

        return upstream.parse_arguments(argv, _add_reward_arguments)
    args = build_parser().parse_args(argv)
    args.reward_specs = reward_specs(
        args.reward_models,
        args.reward_scales,
        args.reward_signs,
        args.reward_shifts,
        args.objectives,
    )
    check_panacea(args, tuple(spec.name for spec in args.reward_specs))
    return args


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    if args.reward_calibration is not None:
        args.reward_specs = apply_calibration(args.reward_specs, args.reward_calibration)
    from safe_rlhf_panacea.algorithms.ppo.trainer import PanaceaPPOTrainer

    run_to_end(PanaceaPPOTrainer(args, *prepare_run(args, PROGRAM)))
