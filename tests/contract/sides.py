"""The two sides of the contract, made from the same files and hyperparameters."""

from __future__ import annotations

import argparse
import importlib.util
from contextlib import contextmanager

import pytest

from safe_rlhf_panacea.base.resolution import VARIABLE, backend

SIDES = ("port", "safe_rlhf")
DPO_FLAGS = (
    *("--scale_coeff", "0.1", "--epochs", "1", "--lr", "1e-2", "--weight_decay", "0"),
    *("--lr_scheduler_type", "constant", "--lr_warmup_ratio", "0"),
)
PPO_FLAGS = (
    *("--kl_coeff", "0.02", "--clip_range_score", "3", "--ptx_coeff", "2", "--epochs", "1"),
    *("--per_device_prompt_batch_size", "8", "--gradient_accumulation_steps", "1"),
    *("--actor_lr", "1e-2", "--actor_weight_decay", "0", "--actor_lr_scheduler_type", "constant"),
    *("--critic_lr", "1e-2", "--critic_weight_decay", "0"),
    *("--critic_lr_scheduler_type", "constant"),
    *("--actor_lr_warmup_ratio", "0", "--critic_lr_warmup_ratio", "0"),
)
COMMON = (
    *("--max_length", "64", "--per_device_train_batch_size", "8"),
    *("--seed", "5", "--log_type", "none"),
)


def why_not() -> str:
    """Why Safe-RLHF cannot be tested here; nothing if it can."""
    spec = importlib.util.find_spec("safe_rlhf")
    if spec is None or spec.origin is None:
        return "Safe-RLHF is not installed"
    return ""


needs_safe_rlhf = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is")
both_sides = pytest.mark.parametrize(
    "side", ["port", pytest.param("safe_rlhf", marks=needs_safe_rlhf)]
)


@contextmanager
def underneath(side):
    """``side`` as the backend of everything that is looked up inside."""
    patch = pytest.MonkeyPatch()
    patch.setenv(VARIABLE, side)
    backend.cache_clear()
    try:
        yield
    finally:
        patch.undo()
        backend.cache_clear()


def fresh(module, side):
    """A module of ours on one of the sides, beside the one that is imported already."""
    spec = importlib.util.find_spec(module)
    spec = importlib.util.spec_from_file_location(f"{module}_on_{side}", spec.origin)
    copy = importlib.util.module_from_spec(spec)
    with underneath(side):
        spec.loader.exec_module(copy)
    return copy


def panacea_class(algorithm, side):
    """``PanaceaDPOTrainer`` or ``PanaceaPPOTrainer`` on one of the sides."""
    module = fresh(f"safe_rlhf_panacea.algorithms.{algorithm}.trainer", side)
    return getattr(module, f"Panacea{algorithm.upper()}Trainer")


def plain_class(algorithm, side):
    """The single-objective trainer of one of the sides."""
    import safe_rlhf_panacea.base as base

    with underneath(side):
        return getattr(base, f"{algorithm.upper()}Trainer")


def data_flags(algorithm, side, files):
    """The same rows, under each side's names."""
    if side == "safe_rlhf":
        flags = ["--train_datasets", f"PKU-SafeRLHF/train:1:{files.pairs}"]
        ptx = ["--ptx_datasets", f"alpaca:1:{files.texts}"]
    else:
        kind = "pairs" if algorithm == "dpo" else "prompts"
        flags = ["--train_datasets", f"{kind}:1:{files.pairs / 'train.jsonl'}"]
        ptx = ["--ptx_datasets", f"supervised:1:{files.texts / 'train.jsonl'}"]
    return flags + ptx * (algorithm == "ppo")


def model_flags(algorithm, files):
    if algorithm == "dpo":
        return ["--model_name_or_path", str(files.base)]
    rewards = [f"{name}={path}" for name, path in files.rewards.items()]
    return ["--actor_model_name_or_path", str(files.base), "--reward_models", *rewards]


def prepared(algorithm, side, files, folder, extra=()):
    """Arguments and DeepSpeed configurations, as the programs make them."""
    from safe_rlhf_panacea.base import program

    main = importlib.import_module(f"safe_rlhf_panacea.algorithms.{algorithm}")
    flags = [
        *model_flags(algorithm, files),
        *data_flags(algorithm, side, files),
        *COMMON,
        *(DPO_FLAGS if algorithm == "dpo" else PPO_FLAGS),
        *("--output_dir", str(folder), *extra),
    ]
    if algorithm == "dpo":
        flags += ["--objectives", "helpful", "harmless"]
    if side == "port":
        flags += ["--progress", "false"]
    with underneath(side):
        args = main.parse_arguments(flags)
        models = {"reward_model_name_or_path": str(files.rewards["helpful"])}
        vars(args).update(models, reward_critic_model_name_or_path=None)  # for the plain trainers
        return args, *program.prepare_run(args)


def make(trainer_class, algorithm, side, files, folder, extra=()):
    """A trainer of one of the sides."""
    arguments = prepared(algorithm, side, files, folder, extra)
    with underneath(side):
        return trainer_class(*arguments)


class Recording(argparse.Namespace):
    """Arguments that remember which of their names were read."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["_read"] = set()

    def __getattribute__(self, name):
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__")["_read"].add(name)
        return object.__getattribute__(self, name)
