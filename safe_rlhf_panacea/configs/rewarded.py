"""Options of rewards and of responses: in training, drawn by vLLM servers, and in evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.kinds import AUTO, AnyPath
from safe_rlhf_panacea.configs.options import Options, option
from safe_rlhf_panacea.configs.training import DataOptions, TemplateOptions
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import check_file

# An option has pairs.
NamedValues = Sequence[kinds.Named] | Mapping[str, Any]
NamedPaths = Sequence[kinds.NamedPath] | Mapping[str, Any]


class RewardUnitOptions(Options, group="rewards"):
    """The units of rewards."""

    reward_scales: NamedValues = option((), "factor on a reward")
    reward_signs: NamedValues = option((), "-1 for a cost model")
    reward_shifts: NamedValues = option((), "subtracted from the score first")


class RewardOptions(RewardUnitOptions, group="rewards"):
    """What is rewarded, and in which units."""

    reward_models: NamedPaths | None = option(text="in the order of λ", required=True)
    objectives: Sequence[kinds.Text] | None = option(
        None, "another order of λ than --reward_models'"
    )
    reward_calibration: AnyPath | None = option(
        text="of evaluation.calibrate: standardise with it", metavar="FILE"
    )


class RolloutOptions(Options, group="rollouts"):
    """Drawing responses and updating on them."""

    kl_coeff: kinds.NonNegative = option(0.02, "weight of the KL term")
    clip_range_ratio: kinds.Positive = option(0.2, "clipping of the probability ratio")
    ptx_coeff: kinds.NonNegative = option(
        16.0, "weight of the supervised loss (with --ptx_datasets)"
    )
    temperature: kinds.NonNegative = option(
        1.0, "of sampling, and of policy and reference in the losses; 0 is greedy, with losses at 1"
    )
    top_p: kinds.Share = option(1.0, "nucleus mass of sampling")
    repetition_penalty: kinds.Positive = option(1.0, "of sampling")
    update_iters: int = option(1, "passes over every rollout")
    num_return_sequences: int = option(1, "responses to each prompt")
    per_device_prompt_batch_size: int = option(16, "prompts in a rollout")
    normalize_reward: bool = option(False, "use the models' own normalisers")


class TextOptions(DataOptions, group="data"):
    """``DataOptions`` with supervised text beside the prompts."""

    ptx_datasets: Sequence[kinds.DataSet] | None = option(
        None, "supervised text that is learnt beside"
    )


VLLM = "--rollout_engine vllm"


class EngineOptions(Options, group="rollouts by vLLM (docs/scaling.md)"):
    """Who draws the responses, and how far it may be from the policy."""

    rollout_engine: Literal["own", "vllm"] = option("own", "who draws the responses")
    rollout_server: Sequence[kinds.ServerOrAuto] | None = option(
        text=f"of vLLM servers, or '{AUTO}' to start one, which ends with the run", belongs=VLLM
    )
    rollout_server_flags: str | None = option(
        text="with auto: vLLM's own, in quotes, e.g. '--gpu-memory-utilization 0.4'",
        metavar="FLAGS",
        belongs=VLLM,
    )
    rollout_folder: AnyPath | None = option(
        text="where servers find the adapter after each update; default: rollouts in the output "
        "folder",
        metavar="DIR",
        belongs=VLLM,
    )
    rollout_timeout: kinds.Positive = option(600.0, "seconds for the responses to one prompt")
    rollout_stale: bool = option(
        False,
        "ask for the next responses while those at hand are learnt from, so that they are of the "
        "policy one update before",
        belongs=VLLM,
    )
    vllm_importance_sampling_correction: bool = option(
        False,
        "weight each token with the policy's probability over vLLM's, as TRL does (token_truncate)",
        belongs=VLLM,
    )
    vllm_importance_sampling_cap: kinds.Positive = option(3.0, "most that such a weight is")


class MeasureOptions(RewardUnitOptions):
    """Rewards, prompts or pairs, and how they are worked off."""

    reward_models: Sequence[kinds.NamedPath] = option(())
    normalize_reward: bool = option(False, "use the models' own normalisers")
    datasets: Sequence[str] = option(metavar="SPEC", required=True)
    max_length: int = option(512)
    batch_size: int = option(16, "prompts or pairs")
    seed: kinds.Seed = option(42)
    bf16: bool = option(False, "weights in bfloat16")
    trust_remote_code: bool = option(False, "run code that comes with a model")
    progress: bool = option(True, "show progress bars")


class ResponseOptions(MeasureOptions):
    """The same where responses are sampled."""

    temperature: kinds.NonNegative = option(1.0)


class RewardFileOptions(TemplateOptions, MeasureOptions):
    """A program that measures rewards and writes one file."""

    model_name_or_path: str = option(text="the SFT model", required=True)
    output_file: str = option(text="JSON; must not exist", required=True)
    overwrite: bool = option(False, "replace the file")

    def check(self) -> None:
        """Refuse missing rewards, a file that cannot be written, or a malformed data set."""
        from safe_rlhf_panacea.data.specs import read_specs

        if not self.reward_models:
            raise UserError("--reward_models is missing: there is nothing to measure")
        check_file(Path(self.output_file), self.overwrite)
        read_specs(self.datasets)
