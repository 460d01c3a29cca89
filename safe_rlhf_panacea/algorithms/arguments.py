"""The flags that Panacea adds to Safe-RLHF's, and how they are checked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from safe_rlhf_panacea.base.arguments import (
    add_flag,
    finite_float,
    non_negative_float,
    positive_float,
    positive_int,
    probability,
)
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from safe_rlhf_panacea.adapter import AdapterConfig

# Written out, so that a command line is read before torch is imported.
SAMPLERS = ("uniform", "dirichlet", "vertices", "stratified")
AGGREGATIONS = ("ls", "tche")


def add_panacea_arguments(parser: argparse.ArgumentParser, *, rewards: bool = False) -> None:
    """Adapter, preference vectors and aggregation; defaults are the paper's (Tables 1 and 2).

    Args:
        parser: the program's.
        rewards: whether it aggregates rewards, and not losses.
    """
    _add_adapter_arguments(parser.add_argument_group("panacea: adapter"))
    group = parser.add_argument_group("panacea: preference vectors")
    _add_aggregation_arguments(group, rewards)
    _add_preference_arguments(group, rewards)
    _add_front_arguments(parser)


def _add_adapter_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--lora_dim", type=positive_int, default=8, help="k singular values")
    group.add_argument(
        "--lora_scaling", type=positive_float, default=512.0, help="factor × lora_dim"
    )
    group.add_argument("--pref_dim", type=positive_int, default=2, help="m, number of objectives")
    group.add_argument(
        "--pref_rank",
        type=positive_int,
        default=1,
        help="singular values for each objective; the paper has one",
    )
    group.add_argument("--lora_module_name", default="layers.", help="adapt layers named like this")
    add_flag(
        group,
        "--only_optimize_lora",
        True,
        "freeze everything but the adapter; anything but true is refused",
    )
    group.add_argument("--fixed_scaling", type=finite_float, help="ablation: s fixed at this value")
    add_flag(group, "--scaling_per_objective", False, "one s per objective (Eq. 9)")
    group.add_argument(
        "--scaling_lr_multiplier",
        type=positive_float,
        default=1.0,
        help="learning rate of s, as a multiple of the others'",
    )
    group.add_argument("--init_singular", type=finite_float, default=0.0, help="start of σ and s")
    group.add_argument(
        "--orthogonality_coeff",
        type=non_negative_float,
        default=0.0,
        help="weight of AdaLoRA's penalty on U, V",
    )


def _add_preference_arguments(group: argparse._ArgumentGroup, rewards: bool) -> None:
    group.add_argument(
        "--preference_scope",
        choices=("batch", "sample"),
        default="batch",
        help="one λ per update (Algorithm 1) or one per sequence",
    )
    group.add_argument("--preference_sampler", choices=SAMPLERS, default="uniform")
    group.add_argument(
        "--dirichlet_alpha", type=positive_float, help="with --preference_sampler dirichlet"
    )
    group.add_argument(
        "--vertex_probability",
        type=probability,
        help="needed by --preference_sampler vertices: how often λ is a vertex, 0 to 1",
    )
    if not rewards:
        add_flag(
            group,
            "--preference_for_labels",
            False,
            "with --preference_scope sample: draw λ for the objectives that label a row, and weigh "
            "its loss so that the expected loss stays the same; its gradient has less noise",
        )
    group.add_argument(
        "--fixed_preference",
        metavar="VECTOR",
        help="baselines: train for this λ alone, with an adapter that has no preference part, on "
        "the pairs and texts that count for an objective to which it gives a weight",
    )


def _add_aggregation_arguments(group: argparse._ArgumentGroup, rewards: bool) -> None:
    text = "weighted sum, or Tchebycheff"
    if rewards:
        text += "; stche is its smooth form"
        group.add_argument(
            "--smooth_mu",
            type=positive_float,
            help="with --aggregation stche: its μ, in the units of the rewards (default: 0.1)",
        )
    else:
        text += (
            ", the largest of the m weighted mean losses of each micro-batch over all processes, "
            "where Eq. 16 has expectations"
        )
    methods = (*AGGREGATIONS, "stche") if rewards else AGGREGATIONS
    group.add_argument("--aggregation", choices=methods, default="ls", help=text)


def _add_front_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("panacea: the front while training (with --need_eval)")
    group.add_argument(
        "--eval_grid_step",
        type=positive_float,
        help="of λ; default: 0.25, 0.5 from 4 objectives on, vertices and centre from 8 on",
    )
    group.add_argument(
        "--eval_prompts",
        type=positive_int,
        help="prompts that are responded to at every λ; default: all (PPO), 16 (DPO, SFT)",
    )
    group.add_argument(
        "--reference_point",
        type=finite_float,
        nargs="+",
        help="of the hypervolume; default: 0 (DPO), two standard deviations below the initial "
        "model's mean (PPO, SFT)",
    )


def check_panacea(args: argparse.Namespace, objectives: tuple[str, ...]) -> None:
    """Contradictions among Panacea's flags.

    Raises:
        UserError: naming the flags and what would be right.
    """
    from safe_rlhf_panacea.preference import (
        PreferenceSampler,
        check_objective_names,
        parse_preference,
        preference_grid,
    )

    check_objective_names(objectives)
    if len(set(objectives)) != len(objectives):
        raise UserError(f"an objective is named twice: {', '.join(objectives)}")
    if args.pref_dim != len(objectives):
        raise UserError(
            f"--pref_dim is {args.pref_dim}, but there are {len(objectives)} objectives "
            f"({', '.join(objectives)}): they must agree"
        )
    if args.fixed_scaling is not None and args.scaling_per_objective:
        raise UserError("--fixed_scaling and --scaling_per_objective exclude each other")
    if not args.only_optimize_lora:
        raise UserError(
            "--only_optimize_lora must be true: the reference is the base model with the adapter "
            "off, and only the adapter is saved, so the base model must not be trained"
        )
    if getattr(args, "smooth_mu", None) is not None and args.aggregation != "stche":
        raise UserError("--smooth_mu belongs to --aggregation stche")
    needs = {"dirichlet_alpha": "dirichlet", "vertex_probability": "vertices"}
    for flag, sampler in needs.items():
        if getattr(args, flag) is not None and args.preference_sampler != sampler:
            raise UserError(f"--{flag} belongs to --preference_sampler {sampler}")
    if args.preference_sampler == "vertices" and args.vertex_probability is None:
        raise UserError(
            "--preference_sampler vertices needs --vertex_probability: how often λ is a vertex, "
            "such as 0.3"
        )
    if args.eval_grid_step is not None:
        preference_grid(len(objectives), args.eval_grid_step)
    if args.reference_point is not None and len(args.reference_point) != len(objectives):
        raise UserError(
            f"--reference_point needs {len(objectives)} numbers, not {len(args.reference_point)}"
        )
    PreferenceSampler(
        len(objectives),
        args.preference_sampler,
        scope=args.preference_scope,
        vertex_probability=args.vertex_probability,
    )
    if getattr(args, "preference_for_labels", False) and args.preference_scope != "sample":
        raise UserError("--preference_for_labels belongs to --preference_scope sample")
    if args.fixed_scaling is not None and args.scaling_lr_multiplier != 1:
        raise UserError("--scaling_lr_multiplier says how fast s learns: --fixed_scaling fixes it")
    if args.fixed_preference is not None:
        parse_preference(args.fixed_preference, objectives)
        if args.preference_sampler != "uniform" or args.preference_scope != "batch":
            raise UserError("--fixed_preference draws nothing: leave the sampler's flags out")


def adapter_config(
    args: argparse.Namespace, objectives: tuple[str, ...], base_model: str
) -> AdapterConfig:
    """The adapter that the flags describe; no preference part for a fixed preference."""
    from safe_rlhf_panacea.adapter import AdapterConfig

    return AdapterConfig(
        lora_dim=args.lora_dim,
        pref_dim=0 if args.fixed_preference is not None else args.pref_dim,
        pref_rank=1 if args.fixed_preference is not None else args.pref_rank,
        lora_scaling=args.lora_scaling,
        lora_module_name=args.lora_module_name,
        objectives=objectives,
        fixed_scaling=args.fixed_scaling,
        scaling_per_objective=args.scaling_per_objective,
        init_singular=args.init_singular,
        base_model=base_model,
    )
