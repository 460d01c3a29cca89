"""The flags that the evaluation programs share, and what they load."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.arguments import (
    add_flag,
    named_value,
    non_negative_float,
    positive_int,
    seed_int,
)
from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.base.generation import SamplingConfig
from safe_rlhf_panacea.base.models import load_pretrained_models
from safe_rlhf_panacea.base.models.positions import check_positions
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.data.prompt_only import different_rows
from safe_rlhf_panacea.data.specs import Row, read_specs, select_rows
from safe_rlhf_panacea.data.tokenized import refusing
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.measure import Policy
from safe_rlhf_panacea.fronts.sampling import Prompt
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.calibration import apply_calibration
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.spec import RewardSpec, reward_specs


def utf8_text(text: str) -> str:
    """Text that JSON can hold; a command line may have other bytes."""
    if text.encode(errors="ignore").decode() != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8 text")
    return text


def add_reward_flags(parser: argparse.ArgumentParser) -> None:
    """Reward models with their scales, as PPO has them."""
    pair: dict[str, Any] = {"type": named_value, "nargs": "+", "default": []}
    parser.add_argument("--reward_models", metavar="NAME=PATH", **pair)
    for flag in ("scales", "signs", "shifts"):
        parser.add_argument(f"--reward_{flag}", metavar="NAME=VALUE", **pair)
    add_flag(parser, "--normalize_reward", False, "use the models' own normalisers")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``add_data_flags``, and the temperature at which responses are drawn."""
    add_data_flags(parser)
    parser.add_argument("--temperature", type=non_negative_float, default=1.0)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Prompts or pairs, and how they are worked off."""
    parser.add_argument("--datasets", nargs="+", required=True, metavar="SPEC")
    parser.add_argument("--max_length", type=positive_int, default=512)
    parser.add_argument("--batch_size", type=positive_int, default=16, help="prompts or pairs")
    parser.add_argument("--seed", type=seed_int, default=42)
    add_flag(parser, "--bf16", False, "weights in bfloat16")
    add_flag(parser, "--trust_remote_code", False, "run code that comes with a model")
    add_flag(parser, "--progress", True, "show progress bars")


def check_rewards_and_file(args: argparse.Namespace, what: str) -> None:
    """Refuse what would be found out only after hours.

    Raises:
        UserError: there are no rewards to do ``what`` with, or the file cannot be written.
    """
    if not args.reward_models:
        raise UserError(f"--reward_models is missing: there is nothing to {what}")
    file = Path(args.output_file)
    if file.is_dir():
        raise UserError(f"{file} is a folder: --output_file is a file's name")
    if file.exists() and not args.overwrite:
        raise UserError(f"{file} exists: choose another file or give --overwrite")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{above} is no folder: {file} cannot be written")


def device() -> str:
    """Where models are loaded: ``cuda`` if there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(args: argparse.Namespace, path: str, **options: Any) -> tuple[Any, Any]:
    """A model, on the GPU if there is one, and its tokenizer."""
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=args.max_length,
        trust_remote_code=args.trust_remote_code,
        dtype=torch.bfloat16 if args.bf16 else None,
        **options,
    )
    check_positions(model, args.max_length, path)
    return model.to(device()), tokenizer


def read_prompts(args: argparse.Namespace, template: ChatTemplate) -> list[Prompt]:
    """The different prompts of all data sets that leave room for a response.

    Raises:
        UserError: no prompt is left, or the template refuses one.
    """

    def written(row: Row) -> str:
        with refusing(row):
            return template.prompt(row.sample["input"], row.sample.get("system"))

    rows = different_rows(select_rows(read_specs(args.datasets), args.seed), written)
    (encoded,) = template.encode([written(row) for row in rows])
    short = [
        Prompt(template.shown(ids), ids, row.sample)
        for ids, row in zip(encoded, rows, strict=True)
        if len(ids) < args.max_length
    ]
    if not short:
        raise UserError(f"no prompt is shorter than --max_length {args.max_length} tokens")
    if len(short) < len(rows) and is_main_process():
        say(f"left out {len(rows) - len(short)} prompts of --max_length tokens or more")
    return short


def read_rewards(args: argparse.Namespace, objectives: Sequence[str] | None) -> list[RewardSpec]:
    """The rewards that the flags describe, in the order of ``objectives``."""
    scaling = (args.reward_scales, args.reward_signs, args.reward_shifts)
    specs = reward_specs(args.reward_models, *scaling, objectives)
    calibration = getattr(args, "reward_calibration", None)
    return specs if calibration is None else apply_calibration(specs, calibration)


def rewards_of(
    args: argparse.Namespace, specs: Sequence[RewardSpec], policy: Policy
) -> RewardEnsemble:
    """Load what scores each objective of a policy, on the GPU if there is one."""
    return rewards_for(args, specs, policy.tokenizer, policy.sampling.stop_ids)


def rewards_for(
    args: argparse.Namespace,
    specs: Sequence[RewardSpec],
    tokenizer: Any,
    stop_ids: Sequence[int],
) -> RewardEnsemble:
    """Load what scores each objective of responses in a tokenizer's tokens."""
    dtype = torch.bfloat16 if args.bf16 else None
    loading = RewardLoading(args.max_length, dtype, args.normalize_reward, args.trust_remote_code)
    rewards = load_rewards(specs, tokenizer, stop_ids, loading)
    rewards.place(lambda model: model.to(device()))
    return rewards


def policy_of(args: argparse.Namespace, model: Any, adapter: Any, template: ChatTemplate) -> Policy:
    """A model as the flags want it measured."""
    sampling = SamplingConfig(
        args.max_length,
        template.stop_ids(model),
        template.tokenizer.pad_token_id,
        temperature=args.temperature,
    )
    return Policy(
        model,
        adapter,
        template.tokenizer,
        sampling,
        seed=args.seed,
        prompts_per_batch=args.batch_size,
        pairs_per_batch=args.batch_size,
        progress=args.progress,
    )
