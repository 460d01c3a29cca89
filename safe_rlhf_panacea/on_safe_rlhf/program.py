"""The programs on Safe-RLHF: its flags with Panacea's, its own configurations, any device."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from safe_rlhf.configs import get_deepspeed_eval_config, get_deepspeed_train_config
from safe_rlhf.logger import set_logger_level
from safe_rlhf.utils import seed_everything

from safe_rlhf_panacea.configs.algorithms import DPOConfig, PPOConfig
from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag, add_options
from safe_rlhf_panacea.configs.panacea import (
    AdapterOptions,
    FrontOptions,
    LabelPreferenceOptions,
    RewardPreferenceOptions,
    check_panacea,
)
from safe_rlhf_panacea.configs.rewarded import RewardOptions
from safe_rlhf_panacea.configs.training import TemplateOptions
from safe_rlhf_panacea.distributed import (
    get_rank,
    init_distributed,
    is_main_process,
    refusing_together,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.spec import apply_calibration, reward_specs
from safe_rlhf_panacea.runs.run_folder import check_free

# The options that every Panacea program adds to Safe-RLHF's own.
PANACEA_OPTIONS = (AdapterOptions, FrontOptions, TemplateOptions)
REWARD, COST = "--reward_model_name_or_path", "--cost_model_name_or_path"
# Flags of ppo.sh and ppo-lag.sh that Panacea has no use for.
IDLE = (
    *("--reward_critic_model_name_or_path", "--cost_critic_model_name_or_path"),
    *("--threshold", "--lambda_init", "--lambda_lr", "--lambda_max"),
    *("--lambda_update_delay_steps", "--episode_cost_window_size", "--normalize_cost"),
)


def _flags_of(argv: Sequence[str]) -> set[str]:
    """The flags that a command line gives."""
    return {word.partition("=")[0] for word in argv if word.startswith("--")}


def _parser(algorithm: str, example: str) -> ArgumentParser:
    """A parser for the flags that Safe-RLHF's own does not know; none of them is required."""
    module = f"safe_rlhf_panacea.algorithms.{algorithm}"
    about = (
        f"Panacea-{algorithm.upper()} on Safe-RLHF: its launch scripts run with this module in "
        "place of theirs."
    )
    example = f"deepspeed --module {module} {example} --train_datasets …"
    parser = ArgumentParser(f"python -m {module}", about, example, add_help=False)
    add_flag(parser, "--overwrite", False, "replace a run that the folder holds")
    parser.add_argument("--log_type", "--report_to", help=argparse.SUPPRESS)  # either name
    return parser


def _read(program: str, panacea: ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Read a command line with Safe-RLHF's own parser, after Panacea's flags are taken out.

    ``program`` is Safe-RLHF's module; ``panacea`` knows the flags that Safe-RLHF does not.
    """
    if "-h" in words or "--help" in words:
        panacea.print_help()
        print("\nand Safe-RLHF's own:\n")
    ours, rest = panacea.parse_known_args(words)
    log_type = vars(ours).pop("log_type")
    if log_type not in (None, "none"):
        rest += ["--log_type", log_type]
    if "--local_rank" not in _flags_of(rest):  # DeepSpeed's launcher gives it, torchrun does not
        rest += ["--local_rank", os.environ.get("LOCAL_RANK", "0")]
    before, sys.argv = sys.argv, [panacea.prog, *rest]
    try:
        args = importlib.import_module(program).parse_arguments()
    finally:
        sys.argv = before
    if log_type == "none":  # Safe-RLHF's trainers know it, and its parser does not
        args.log_type = None
    if not args.output_dir:
        raise UserError("--output_dir is missing: the adapter has to go somewhere")
    vars(args).update(vars(ours))
    return args


def parse_dpo(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags of Panacea-DPO."""
    parser = _parser("dpo", "--model_name_or_path …")
    classes, names = (
        (*PANACEA_OPTIONS, LabelPreferenceOptions),
        ("objectives", "upstream_dpo_slice"),
    )
    add_options(parser, DPOConfig, only=classes, names=names)
    parser.set_defaults(objectives=["helpful", "harmless"])  # its data's: better and safer
    words = sys.argv[1:] if argv is None else argv
    args = _read("safe_rlhf.algorithms.dpo.main", parser, words)
    DPOConfig.check_foreign(args)
    check_panacea(args, tuple(args.objectives))
    return args


def parse_ppo(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags of Panacea-PPO; ``reward_specs`` are in the order of λ.

    The reward models are named as on the port (``--reward_models helpful=PATH harmless=PATH``), or
    as in Safe-RLHF's ``ppo-lag.sh``: ``--reward_model_name_or_path`` is then ``helpful``, and
    ``--cost_model_name_or_path``, with sign -1, ``harmless``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser("ppo", "--actor_model_name_or_path … --reward_models helpful=PATH …")
    add_options(parser, PPOConfig, only=(RewardOptions, *PANACEA_OPTIONS, RewardPreferenceOptions))
    given = _flags_of(words)
    models = parser.parse_known_args(words)[0].reward_models
    if models and REWARD not in given:
        words += [REWARD, models[0][1]]  # Safe-RLHF's parser requires it
    name = "ppo_lag" if COST in given else "ppo"
    args = _read(f"safe_rlhf.algorithms.{name}.main", parser, words)
    PPOConfig.check_foreign(args)
    if not models:
        cost = getattr(args, "cost_model_name_or_path", None)
        if cost is None:
            raise UserError(
                "one reward model is one objective: add --reward_models NAME=PATH NAME=PATH, or "
                f"{COST}"
            )
        models = [("helpful", args.reward_model_name_or_path), ("harmless", cost)]
        args.reward_signs = args.reward_signs or [("harmless", "-1")]  # a cost: lower is safer
    args.reward_specs = reward_specs(
        models, args.reward_scales, args.reward_signs, args.reward_shifts, args.objectives
    )
    if args.reward_calibration is not None:
        args.reward_specs = apply_calibration(args.reward_specs, args.reward_calibration)
    check_panacea(args, tuple(spec.name for spec in args.reward_specs))
    if idle := [flag for flag in IDLE if flag in given]:
        say(f"Panacea-PPO has no use for: {', '.join(idle)}")
    return args


def prepare_run(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Safe-RLHF's ``main`` does before its trainer, on a CPU too.

    Sets ``args.device`` and ``args.global_rank``; returns the training and evaluation
    configurations of DeepSpeed.

    Raises:
        UserError: the output folder holds a run already, or a model is an adapter.
    """
    for flag, name in vars(args).items():
        if flag.endswith("model_name_or_path") and name and (found := find_adapter(name)):
            raise UserError(
                f"--{flag} {name} is an adapter, which Safe-RLHF does not load: make a whole model "
                f"of it with {found.merge_command}"
            )
    args.output_dir = os.path.expanduser(args.output_dir)  # once, for all who write there
    args.device = init_distributed(args.local_rank)
    with refusing_together():
        if is_main_process():
            check_free(args.output_dir, overwrite=args.overwrite)
    args.global_rank = get_rank()
    seed_everything(args.seed)
    set_logger_level()
    common = {"stage": args.zero_stage, "offload": args.offload}
    precision = {"fp16": args.fp16, "bf16": args.bf16}
    train_config = get_deepspeed_train_config(
        micro_batch_size_per_gpu=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        **common,
        **precision,
    )
    return train_config, get_deepspeed_eval_config(**common, **precision)
