"""What Panacea adds: the adapter, preference vectors, aggregation; defaults are the paper's."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import Options, option
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

    from safe_rlhf_panacea.adapter import AdapterConfig

Sampler = Literal["uniform", "dirichlet", "vertices", "stratified"]


class FrontOptions(Options, group="panacea: the front while training (with --need_eval)"):
    """The front that is measured while training."""

    eval_grid_step: kinds.Positive | None = option(
        None, "of λ; default: 0.25, 0.5 from 4 objectives on, vertices and centre from 8 on"
    )
    eval_prompts: int | None = option(
        text="prompts that are responded to at every λ; default: all (PPO), 16 (DPO, SFT)"
    )
    reference_point: Sequence[float] | None = option(
        text="of the hypervolume; default: 0 (DPO), two standard deviations below the initial "
        "model's mean (PPO, SFT)"
    )


class PreferenceOptions(Options, group="panacea: preference vectors"):
    """How λ is drawn, and how it makes one objective of m."""

    aggregation: str = option("ls", "the subclasses say which there are")
    preference_scope: Literal["batch", "sample"] = option(
        "batch", "one λ per update (Algorithm 1) or one per sequence"
    )
    preference_sampler: Sampler = option("uniform")
    dirichlet_alpha: kinds.Positive | None = option(
        text="with --preference_sampler dirichlet", belongs="--preference_sampler dirichlet"
    )
    vertex_probability: kinds.Probability | None = option(
        text="needed by --preference_sampler vertices: how often λ is a vertex, 0 to 1",
        belongs="--preference_sampler vertices",
    )
    dirichlet_alpha_end: kinds.Positive | None = option(
        None, "at the end of the run, reached linearly from --dirichlet_alpha"
    )
    vertex_probability_end: kinds.Probability | None = option(
        None, "at the end of the run, reached linearly from --vertex_probability"
    )
    fixed_preference: kinds.Vector | Sequence[float] | Mapping[str, float] | None = option(
        None,
        "baselines: train for this λ alone, with an adapter that has no preference part, on "
        "the pairs and texts that count for an objective to which it gives a weight",
    )


class LabelPreferenceOptions(PreferenceOptions, group="panacea: preference vectors"):
    """``PreferenceOptions`` where not every objective labels every row."""

    aggregation: Literal["ls", "tche"] = option(
        "ls",
        "weighted sum, or Tchebycheff, the largest of the m weighted mean losses of each "
        "micro-batch over all processes, where Eq. 16 has expectations",
    )
    preference_for_labels: bool = option(
        False,
        "with --preference_scope sample: draw λ for the objectives that label a row, and weigh "
        "its loss so that the expected loss stays the same; its gradient has less noise",
        belongs="--preference_scope sample",
    )


class RewardPreferenceOptions(PreferenceOptions, group="panacea: preference vectors"):
    """``PreferenceOptions`` of rewards."""

    aggregation: Literal["ls", "tche", "stche"] = option(
        "ls", "weighted sum, or Tchebycheff; stche is its smooth form"
    )
    smooth_mu: kinds.Positive | None = option(
        text="with --aggregation stche: its μ, in the units of the rewards (default: 0.1)",
        belongs="--aggregation stche",
    )


class AdapterOptions(Options, group="panacea: adapter"):
    """The SVD-LoRA adapter."""

    lora_dim: int = option(8, "k singular values")
    lora_scaling: kinds.Positive = option(512.0, "factor × lora_dim")
    pref_dim: int | None = option(text="m; default: the number of objectives")
    pref_rank: int = option(1, "singular values for each objective; the paper has one")
    lora_module_name: kinds.Text = option("layers.", "adapt layers named like this")
    only_optimize_lora: bool = option(
        True, "freeze everything but the adapter; anything but true is refused"
    )
    fixed_scaling: float | None = option(text="ablation: s fixed at this value")
    scaling_per_objective: bool = option(False, "one s per objective (Eq. 9)")
    scaling_lr_multiplier: kinds.Positive = option(
        1.0, "learning rate of s, as a multiple of the others'"
    )
    init_singular: float = option(0.0, "start of σ and s")
    orthogonality_coeff: kinds.NonNegative = option(0.0, "weight of AdaLoRA's penalty on U, V")


class PanaceaConfig(FrontOptions, PreferenceOptions, AdapterOptions, TrainConfig, abc.ABC):
    """What every training of a Panacea adapter can be told.

    Subclasses say which objectives there are, in ``objective_names``.
    """

    @abc.abstractmethod
    def objective_names(self) -> tuple[str, ...]:
        """The objectives, in the order of λ; ``UserError`` if there are none."""

    def resolved(self) -> Self:
        """These options, with those filled in that follow from the objectives."""
        return super().resolved().with_(pref_dim=len(self.objective_names()))

    def check(self) -> None:
        """Refuse what contradicts itself, Panacea's options too."""
        super().check()
        check_panacea(self, self.objective_names())


def check_panacea(args: Any, objectives: tuple[str, ...]) -> None:
    """Refuse contradictions among Panacea's options, or a namespace's that has them."""
    from safe_rlhf_panacea.preference import (
        check_objective_names,
        parse_preference,
        preference_grid,
    )
    from safe_rlhf_panacea.preference_sampler import PreferenceSampler

    check_objective_names(objectives)
    if len(set(objectives)) != len(objectives):
        raise UserError(f"an objective is named twice: {', '.join(objectives)}")
    if args.pref_dim not in (None, len(objectives)):
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
    for flag in ("dirichlet_alpha", "vertex_probability"):
        if getattr(args, f"{flag}_end") is not None and getattr(args, flag) is None:
            raise UserError(f"--{flag}_end needs --{flag}, where it begins")
    PreferenceSampler(
        len(objectives),
        args.preference_sampler,
        scope=args.preference_scope,
        vertex_probability=args.vertex_probability,
    )
    if args.eval_grid_step is not None:
        preference_grid(len(objectives), args.eval_grid_step)
    if args.reference_point is not None and len(args.reference_point) != len(objectives):
        raise UserError(
            f"--reference_point needs {len(objectives)} numbers, not {len(args.reference_point)}"
        )
    if args.fixed_scaling is not None and args.scaling_lr_multiplier != 1:
        raise UserError("--scaling_lr_multiplier says how fast s learns: --fixed_scaling fixes it")
    if args.fixed_preference is not None:
        parse_preference(args.fixed_preference, objectives)
        if args.preference_sampler != "uniform" or args.preference_scope != "batch":
            raise UserError("--fixed_preference draws nothing: leave the sampler's flags out")


def adapter_config(args: Any, objectives: tuple[str, ...], base_model: str | None) -> AdapterConfig:
    """The adapter that the options describe; no preference part for a fixed preference."""
    from safe_rlhf_panacea.adapter import AdapterConfig

    fixed = args.fixed_preference is not None
    return AdapterConfig(
        lora_dim=args.lora_dim,
        pref_dim=0 if fixed else len(objectives),
        pref_rank=1 if fixed else args.pref_rank,
        lora_scaling=args.lora_scaling,
        lora_module_name=args.lora_module_name,
        objectives=objectives,
        fixed_scaling=args.fixed_scaling,
        scaling_per_objective=args.scaling_per_objective,
        init_singular=args.init_singular,
        base_model=base_model,
    )
