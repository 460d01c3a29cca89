"""What the evaluation programs load, as their options say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.configs.evaluation import MeasureOptions, ResponseOptions
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.data.datasets import different_rows
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.data.tokenized import Row, refusing, select_rows
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.generation import SamplingConfig
from safe_rlhf_panacea.fronts.measure import Policy
from safe_rlhf_panacea.fronts.sampling import Prompt
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.models.positions import check_positions
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.calibration import apply_calibration
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.spec import RewardSpec, reward_specs


def device() -> str:
    """Where models are loaded: ``cuda`` if there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(options: MeasureOptions, path: str) -> tuple[Any, Any]:
    """A model, on the GPU if there is one, and its tokenizer."""
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=options.max_length,
        trust_remote_code=options.trust_remote_code,
        dtype=torch.bfloat16 if options.bf16 else None,
    )
    check_positions(model, options.max_length, path)
    return model.to(device()), tokenizer


def read_prompts(options: MeasureOptions, template: ChatTemplate) -> list[Prompt]:
    """The different prompts of all data sets that leave room for a response.

    Raises:
        UserError: no prompt is left, or the template refuses one.
    """

    def written(row: Row) -> str:
        with refusing(row):
            return template.prompt(row.sample["input"], row.sample.get("system"))

    rows = different_rows(select_rows(read_specs(options.datasets), options.seed), written)
    (encoded,) = template.encode([written(row) for row in rows])
    short = [
        Prompt(template.shown(ids), ids, row.sample)
        for ids, row in zip(encoded, rows, strict=True)
        if len(ids) < options.max_length
    ]
    if not short:
        raise UserError(f"no prompt is shorter than --max_length {options.max_length} tokens")
    if len(short) < len(rows) and is_main_process():
        say(f"left out {len(rows) - len(short)} prompts of --max_length tokens or more")
    return short


def read_rewards(
    options: MeasureOptions, objectives: Sequence[str] | None, calibration: str | None = None
) -> list[RewardSpec]:
    """The rewards that the options describe, in the order of ``objectives``.

    Args:
        options: of the program.
        objectives: their order; None: that of the rewards.
        calibration: a file of ``evaluation.calibrate`` to standardise with.
    """
    scaling = (options.reward_scales, options.reward_signs, options.reward_shifts)
    specs = reward_specs(options.reward_models, *scaling, objectives)
    return specs if calibration is None else apply_calibration(specs, calibration)


def rewards_of(
    options: MeasureOptions, specs: Sequence[RewardSpec], policy: Policy
) -> RewardEnsemble:
    """Load what scores each objective of a policy, on the GPU if there is one."""
    return rewards_for(options, specs, policy.tokenizer, policy.sampling.stop_ids)


def rewards_for(
    options: MeasureOptions, specs: Sequence[RewardSpec], tokenizer: Any, stop_ids: Sequence[int]
) -> RewardEnsemble:
    """Load what scores each objective of responses in a tokenizer's tokens."""
    dtype = torch.bfloat16 if options.bf16 else None
    loading = RewardLoading(
        options.max_length, dtype, options.normalize_reward, options.trust_remote_code
    )
    rewards = load_rewards(specs, tokenizer, stop_ids, loading)
    rewards.place(lambda model: model.to(device()))
    return rewards


def policy_of(options: ResponseOptions, model: Any, adapter: Any, template: ChatTemplate) -> Policy:
    """A model as the flags want it measured."""
    sampling = SamplingConfig(
        options.max_length,
        template.stop_ids(model),
        template.tokenizer.pad_token_id,
        temperature=options.temperature,
    )
    return Policy(
        model,
        adapter,
        template.tokenizer,
        sampling,
        seed=options.seed,
        prompts_per_batch=options.batch_size,
        pairs_per_batch=options.batch_size,
        progress=options.progress,
    )
