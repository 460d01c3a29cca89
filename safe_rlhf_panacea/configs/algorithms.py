"""The options of each training program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.kinds import AUTO
from safe_rlhf_panacea.configs.options import Options, option
from safe_rlhf_panacea.configs.panacea import (
    LabelPreferenceOptions,
    PanaceaConfig,
    RewardPreferenceOptions,
)
from safe_rlhf_panacea.configs.rewarded import (
    VLLM,
    EngineOptions,
    RewardOptions,
    RolloutOptions,
    TextOptions,
)
from safe_rlhf_panacea.configs.training import (
    ActorScheduleOptions,
    CriticScheduleOptions,
    ScheduleOptions,
    TrainConfig,
)
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

    from safe_rlhf_panacea.rewards.spec import RewardSpec

FORM = "name[:proportion[:path]]"
OBJECTIVES = "in the order of λ; default: as --train_datasets names them"


class ModelOptions(Options):
    """The one model that is trained."""

    model_name_or_path: kinds.Model = option(None, "folder or hub name", required=True)


class FinetuneConfig(ScheduleOptions, TrainConfig, ModelOptions):
    """Plain supervised fine-tuning."""

    epochs: int = 3


class RewardConfig(ScheduleOptions, TrainConfig, ModelOptions):
    """A reward model for one objective."""

    objective: kinds.ObjectiveName | None = option(
        None, "whose labels to learn, e.g. helpful", required=True
    )
    regularization: kinds.NonNegative = option(0.0, "weight of mean score²")
    epochs: int = 2
    weight_decay: float = 0.1


class NamedDataConfig(LabelPreferenceOptions, ScheduleOptions, PanaceaConfig, ModelOptions):
    """Panacea on data that names its objectives."""

    train_datasets: Sequence[kinds.DataSet] = option(
        None,
        f"data sets as [objective=]{FORM}, or a path or hub name in place of name",
        required=True,
    )
    objectives: Sequence[kinds.Text] | None = option(None, OBJECTIVES)
    lr: float = 2e-4
    weight_decay: float = 0.05

    def objective_names(self) -> tuple[str, ...]:
        """``objectives``, or those that the data sets are named for."""
        found = tuple(self.objectives or _named_for(self.train_datasets))
        if not found:
            raise UserError(
                "--objectives is missing, and --train_datasets names none (helpful=PATH)"
            )
        return found

    def resolved(self) -> Self:
        """These options, with the objectives and their number filled in."""
        return super().resolved().with_(objectives=self.objective_names())


class DPOConfig(NamedDataConfig, group="dpo"):
    """Panacea-DPO; the defaults are those of the paper's Table 2, but precision."""

    scale_coeff: kinds.Positive = option(0.1, "β of DPO")
    upstream_dpo_slice: bool = option(False, "sum the tokens that Safe-RLHF's loss sums")

    def check(self) -> None:
        """Refuse what contradicts itself, and data sets of objectives that there are not."""
        super().check()
        for name in [*_named_for(self.train_datasets), *_named_for(self.eval_datasets)]:
            if name not in self.objective_names():
                raise UserError(f"a data set is named for {name!r}, which is none of --objectives")


class SFTConfig(NamedDataConfig):
    """Panacea-SFT: texts of every objective, aggregated with λ."""

    def check(self) -> None:
        """Refuse what contradicts itself, and objectives without data."""
        from safe_rlhf_panacea.data.datasets import read_named_specs

        read_named_specs("--train_datasets", self.train_datasets or ())
        super().check()
        objectives = self.objective_names()
        read_named_specs("--train_datasets", self.train_datasets or (), objectives)
        if self.eval_datasets is not None:
            read_named_specs("--eval_datasets", self.eval_datasets, objectives)


def _named_for(specs: Sequence[Any] | None) -> list[str]:
    """The objectives that data sets are named for, each once."""
    from safe_rlhf_panacea.data.specs import read_specs

    named = (spec.objective for spec in (read_specs(specs) if specs else ()))
    return list(dict.fromkeys(name for name in named if name is not None))


class RewardedConfig(
    EngineOptions,
    RewardPreferenceOptions,
    ActorScheduleOptions,
    RolloutOptions,
    RewardOptions,
    PanaceaConfig,
    TextOptions,
):
    """Panacea with rewards: what PPO and GRPO share."""

    actor_model_name_or_path: kinds.Model = option(None, "the SFT model", required=True)

    @property
    def reward_specs(self) -> list[RewardSpec]:
        """The objectives with what scores them, in the order of λ, standardised if asked for."""
        from safe_rlhf_panacea.rewards.spec import apply_calibration

        specs = self._plain_specs()
        if self.reward_calibration is None:
            return specs
        return apply_calibration(specs, self.reward_calibration)

    def _plain_specs(self) -> list[RewardSpec]:
        from safe_rlhf_panacea.rewards.spec import reward_specs

        models: Any = self.reward_models or ()
        scales: Any = self.reward_scales
        signs: Any = self.reward_signs
        shifts: Any = self.reward_shifts
        return reward_specs(models, scales, signs, shifts, self.objectives)

    def check(self) -> None:
        """Refuse what contradicts itself, and data that are named for one of the objectives."""
        super().check()
        if self.rollout_engine == "vllm":
            self._check_servers()
        for flag in ("train_datasets", "eval_datasets", "ptx_datasets"):
            for name in _named_for(getattr(self, flag)):
                raise UserError(
                    f"--{flag}: a data set is named for {name!r}, but prompts and texts are for "
                    f"all objectives: leave {name}= out"
                )
        rows = self.per_device_prompt_batch_size * self.num_return_sequences
        if rows % self.per_device_train_batch_size:
            raise UserError(
                f"--per_device_prompt_batch_size times --num_return_sequences is {rows}, which is "
                f"no multiple of --per_device_train_batch_size {self.per_device_train_batch_size}"
            )

    def _check_servers(self) -> None:
        """Refuse options of servers that fit neither together nor to the passes over a rollout."""
        servers = self.rollout_server
        if servers is None:
            raise UserError(f"{VLLM} needs --rollout_server: addresses of servers, or {AUTO}")
        if AUTO in servers and servers != (AUTO,):
            raise UserError(f"--rollout_server {AUTO} stands alone: it starts one server")
        if self.rollout_server_flags is not None and servers != (AUTO,):
            raise UserError(f"--rollout_server_flags belongs to --rollout_server {AUTO}")
        if self.rollout_stale and self.update_iters > 1:
            raise UserError("--rollout_stale needs --update_iters 1: one update lies between")

    def check_files(self) -> None:
        """Refuse a bad calibration."""
        _ = self.reward_specs

    def objective_names(self) -> tuple[str, ...]:
        """Those of the rewards."""
        return tuple(spec.name for spec in self._plain_specs())


class PPOConfig(CriticScheduleOptions, RewardedConfig, group="ppo"):
    """Panacea-PPO; the defaults are those of the paper's Table 1, but precision."""

    clip_range_score: kinds.Positive = option(50.0, "per-token rewards are clipped to ± this")
    clip_range_value: kinds.Positive = option(
        5.0, "values are clipped to ± this around the old ones"
    )
    whiten_advantages: bool = option(
        False, "zero mean and unit variance over an update, or what one rollout has of it"
    )
    epochs: int = 2
    gradient_accumulation_steps: int = 2
    actor_lr: float = 2e-3


class GRPOConfig(RewardedConfig, group="grpo"):
    """Panacea-GRPO, which the paper does not have: the defaults are a choice."""

    advantage: Literal["normalize_then_sum", "sum_then_normalize"] = option(
        "normalize_then_sum",
        "each reward normalised in its group of responses and then weighted with λ (GDPO), or "
        "weighted first (GRPO)",
    )
    equal_steps: bool = option(
        False,
        "with normalize_then_sum: divide by the standard deviation of the sum, which depends on λ "
        "and on how the rewards are correlated",
        belongs="--advantage normalize_then_sum",
    )
    kl_in: Literal["loss", "reward"] = option(
        "loss",
        "where the divergence from the initial model counts: at every token, or off each "
        "response's rewards",
    )
    gradient_accumulation_steps: int = 8
    kl_coeff: float = 0.05
    num_return_sequences: int = 8

    def check(self) -> None:
        """Refuse what contradicts itself, and groups that cannot be compared."""
        super().check()
        group, rows = self.num_return_sequences, self.per_device_train_batch_size
        if group == 1:
            raise UserError(
                "--num_return_sequences is 1: GRPO compares the responses to a prompt with each "
                "other and needs at least 2"
            )
        if rows % group:
            raise UserError(
                f"--per_device_train_batch_size {rows} is no multiple of --num_return_sequences "
                f"{group}: a micro-batch holds whole groups"
            )
        if self.temperature == 0:
            raise UserError("--temperature 0 draws the same response to a prompt again and again")
