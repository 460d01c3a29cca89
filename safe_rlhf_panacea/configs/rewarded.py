"""Options of rewards and of responses: in training, drawn by vLLM servers, and in evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.kinds import AnyPath
from safe_rlhf_panacea.configs.options import Options, configuration, option
from safe_rlhf_panacea.configs.training import DataOptions, TemplateOptions
from safe_rlhf_panacea.errors import UserError

NamedValues = Sequence[tuple[str, Any]] | Mapping[str, Any]  # an option has pairs


@configuration
class RewardUnitOptions(Options, group="rewards"):
    """The units of rewards."""

    reward_scales: NamedValues = option(
        (), "factor on a reward", kind=kinds.named_value, metavar="NAME=VALUE"
    )
    reward_signs: NamedValues = option(
        (), "-1 for a cost model", kind=kinds.named_value, metavar="NAME=VALUE"
    )
    reward_shifts: NamedValues = option(
        (), "subtracted from the score first", kind=kinds.named_value, metavar="NAME=VALUE"
    )


@configuration
class RewardOptions(RewardUnitOptions, group=RewardUnitOptions.GROUP):
    """What is rewarded, and in which units."""

    reward_models: NamedValues | None = option(
        text="in the order of λ", kind=kinds.named_value, metavar="NAME=PATH", required=True
    )
    objectives: Sequence[str] | None = option(
        text="another order of λ than --reward_models'", kind=kinds.text
    )
    reward_calibration: AnyPath | None = option(
        text="of evaluation.calibrate: standardise with it", metavar="FILE"
    )


@configuration
class RolloutOptions(Options, group="rollouts"):
    """Drawing responses and updating on them."""

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
class TextOptions(DataOptions, group=DataOptions.GROUP):
    """``DataOptions`` with supervised text beside the prompts."""

    ptx_datasets: Sequence[Any] | None = option(
        text="supervised text that is learnt beside", kind=kinds.data_set, metavar="SPEC"
    )


AUTO = "auto"


def server(value: Any) -> str:
    """A server's address, or ``auto``."""
    from safe_rlhf_panacea.configs.kinds import server_url

    return AUTO if value == AUTO else server_url(kinds.text(value))


@configuration
class EngineOptions(Options, group="rollouts by vLLM (docs/scaling.md)"):
    """Who draws the responses, and how far it may be from the policy."""

    rollout_engine: Literal["own", "vllm"] = option("own", "who draws the responses")
    rollout_server: Sequence[str] | None = option(
        text=f"of vLLM servers, or '{AUTO}' to start one, which ends with the run",
        kind=server,
        metavar="URL",
    )
    rollout_server_flags: str | None = option(
        text="with auto: vLLM's own, in quotes, e.g. '--gpu-memory-utilization 0.4'",
        metavar="FLAGS",
    )
    rollout_folder: AnyPath | None = option(
        text="where servers find the adapter after each update; default: rollouts in the output "
        "folder",
        metavar="DIR",
    )
    rollout_timeout: float = option(
        600.0, "seconds for the responses to one prompt", kind=kinds.positive_float
    )
    rollout_stale: bool = option(
        False,
        "ask for the next responses while those at hand are learnt from, so that they are of the "
        "policy one update before",
    )
    vllm_importance_sampling_correction: bool = option(
        False,
        "weight each token with the policy's probability over vLLM's, as TRL does (token_truncate)",
    )
    vllm_importance_sampling_cap: float = option(
        3.0, "most that such a weight is", kind=kinds.positive_float
    )

    def check_engine(self, update_iters: int) -> None:
        """Refuse options of servers that fit neither together nor to the passes over a rollout."""
        if self.rollout_engine == "own":
            for name in (
                *("rollout_server", "rollout_server_flags", "rollout_folder", "rollout_stale"),
                "vllm_importance_sampling_correction",
            ):
                if getattr(self, name):
                    raise UserError(f"--{name} belongs to --rollout_engine vllm")
            return
        if self.rollout_server is None:
            raise UserError(
                f"--rollout_engine vllm needs --rollout_server: addresses of servers, or {AUTO}"
            )
        if AUTO in self.rollout_server and self.rollout_server != (AUTO,):
            raise UserError(f"--rollout_server {AUTO} stands alone: it starts one server")
        if self.rollout_server_flags is not None and self.rollout_server != (AUTO,):
            raise UserError(f"--rollout_server_flags belongs to --rollout_server {AUTO}")
        if self.rollout_stale and update_iters > 1:
            raise UserError("--rollout_stale needs --update_iters 1: one update lies between")


@configuration
class MeasureOptions(RewardUnitOptions):
    """Rewards, prompts or pairs, and how they are worked off."""

    reward_models: Sequence[tuple[str, Any]] = option(
        (), kind=kinds.named_value, metavar="NAME=PATH"
    )
    normalize_reward: bool = option(False, "use the models' own normalisers")
    datasets: Sequence[str] = option(metavar="SPEC", required=True)
    max_length: int = option(512)
    batch_size: int = option(16, "prompts or pairs")
    seed: int = option(42, kind=kinds.seed_int)
    bf16: bool = option(False, "weights in bfloat16")
    trust_remote_code: bool = option(False, "run code that comes with a model")
    progress: bool = option(True, "show progress bars")


@configuration
class ResponseOptions(MeasureOptions):
    """The same where responses are sampled."""

    temperature: float = option(1.0, kind=kinds.non_negative_float)


@configuration
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
        file = Path(self.output_file)
        if file.is_dir():
            raise UserError(f"{file} is a folder: --output_file is a file's name")
        if file.exists() and not self.overwrite:
            raise UserError(f"{file} exists: choose another file or give --overwrite")
        above = next(folder for folder in file.absolute().parents if folder.exists())
        if not above.is_dir():
            raise UserError(f"{above} is no folder: {file} cannot be written")
        read_specs(self.datasets)
