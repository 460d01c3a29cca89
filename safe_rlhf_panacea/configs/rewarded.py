"""What training with rewards is told of rewards, responses and updates."""

from __future__ import annotations

from typing import Any, ClassVar

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import Options, configuration, option
from safe_rlhf_panacea.configs.training import DataOptions


@configuration
class RewardUnitOptions(Options):
    """The units of rewards."""

    GROUP: ClassVar[str] = "rewards"

    reward_scales: tuple[tuple[str, Any], ...] = option(
        (), "factor on a reward", kind=kinds.named_value, metavar="NAME=VALUE"
    )
    reward_signs: tuple[tuple[str, Any], ...] = option(
        (), "-1 for a cost model", kind=kinds.named_value, metavar="NAME=VALUE"
    )
    reward_shifts: tuple[tuple[str, Any], ...] = option(
        (), "subtracted from the score first", kind=kinds.named_value, metavar="NAME=VALUE"
    )


@configuration
class RewardOptions(RewardUnitOptions):
    """What is rewarded, and in which units."""

    GROUP: ClassVar[str] = RewardUnitOptions.GROUP

    reward_models: tuple[tuple[str, Any], ...] | None = option(
        text="in the order of λ", kind=kinds.named_value, metavar="NAME=PATH", required=True
    )
    objectives: tuple[str, ...] | None = option(
        text="another order of λ than --reward_models'", kind=kinds.text
    )
    reward_calibration: str | None = option(
        text="of evaluation.calibrate: standardise with it", metavar="FILE"
    )


@configuration
class RolloutOptions(Options):
    """Drawing responses and updating on them."""

    GROUP: ClassVar[str] = "rollouts"

    kl_coeff: float = option(0.02, "weight of the KL term", kind=kinds.non_negative_float)
    clip_range_ratio: float = option(
        0.2, "clipping of the probability ratio", kind=kinds.positive_float
    )
    ptx_coeff: float = option(
        16.0, "weight of the supervised loss (with --ptx_datasets)", kind=kinds.non_negative_float
    )
    temperature: float = option(
        1.0,
        "of sampling, and of policy and reference in the losses; 0 is greedy, with losses at 1",
        kind=kinds.non_negative_float,
    )
    top_p: float = option(1.0, "nucleus mass of sampling", kind=kinds.share)
    repetition_penalty: float = option(1.0, "of sampling", kind=kinds.positive_float)
    update_iters: int = option(1, "passes over every rollout")
    num_return_sequences: int = option(1, "responses to each prompt")
    per_device_prompt_batch_size: int = option(16, "prompts in a rollout")
    normalize_reward: bool = option(False, "use the models' own normalisers")


@configuration
class TextOptions(DataOptions):
    """``DataOptions`` with supervised text beside the prompts."""

    GROUP: ClassVar[str] = DataOptions.GROUP

    ptx_datasets: tuple[Any, ...] | None = option(
        text="supervised text that is learnt beside", kind=kinds.data_set, metavar="SPEC"
    )
