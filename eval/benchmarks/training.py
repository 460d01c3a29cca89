"""Trainers of this package and of Safe-RLHF, made by their own command lines."""

from __future__ import annotations

import importlib
import os
from typing import Any

from benchmarks import finding
from benchmarks.parts.models import OBJECTIVES, folder_of

Job = dict[str, Any]
# Imported by the way, sooner or later; the peak of memory is counted from after it.
LIBRARIES = ["deepspeed", "datasets", "transformers.models.llama.modeling_llama"]


class _Silent:
    """A logger that says nothing."""

    def print(self, *_: Any, **__: Any) -> None:
        """Take any message and write none of it."""

    log = close = print


def imports(algorithm: str) -> list[str]:
    """What a trainer's process imports before anything is measured."""
    package = f"safe_rlhf_panacea.algorithms.{algorithm}"
    libraries = [*LIBRARIES, *(["peft.tuners"] if finding.installed("peft") else [])]
    return [package, f"{package}.trainer", *libraries]


def _common_flags(job: Job) -> list[str]:
    folder = folder_of(job)
    file = folder / "pairs" / "train.jsonl"
    port = job["base"] == "port"
    kind = "pairs" if job["algorithm"] == "dpo" else "prompts"
    data = f"{kind}:1:{file}" if port else f"PKU-SafeRLHF/train:1:{file.parent}"
    precision = str(job["device"] != "cpu").lower()
    return [
        *("--train_datasets", data, "--max_length", str(job["longest"]), "--epochs", "1000"),
        *("--per_device_train_batch_size", str(job["batch"]), "--log_type", "none"),
        *("--gradient_accumulation_steps", "1", "--output_dir", str(folder / f"out-{os.getpid()}")),
        *("--overwrite", "true", "--bf16", precision, "--lora_dim", str(job["lora_dim"])),
        *(("--progress", "false") if port else ()),
    ]


def flags(job: Job) -> list[str]:
    """The command line, in Safe-RLHF's names."""
    folder = folder_of(job)
    if job["algorithm"] == "dpo":
        names = [f"objective_{i}" for i in range(job["objectives"])]
        names[: len(OBJECTIVES)] = OBJECTIVES[: len(names)]
        base = ["--model_name_or_path", str(folder / "base"), "--lr", "1e-4"]
        objectives = ["--pref_dim", str(len(names)), "--objectives", *names]
        return [*base, *objectives, *_common_flags(job)]
    found = [
        *("--actor_model_name_or_path", str(folder / "base"), "--reward_models"),
        *(f"{name}={folder / name}" for name in OBJECTIVES),
        *("--per_device_prompt_batch_size", str(job["prompts"])),
        *("--actor_lr", "1e-4", "--critic_lr", "1e-4", *_common_flags(job)),
    ]
    if job["ptx"]:
        found += ["--ptx_datasets", f"supervised:1:{folder / 'texts.jsonl'}"]
    return found


def make_trainer(job: Job) -> Any:
    """The trainer of a job, plain or Panacea's, ready to take steps."""
    from safe_rlhf_panacea import base

    algorithm = job["algorithm"]
    program = importlib.import_module(f"safe_rlhf_panacea.algorithms.{algorithm}")
    if hasattr(program, "parse_arguments"):
        from safe_rlhf_panacea.base.program import prepare_run
    else:  # an earlier checkout, measured beside this one
        program = importlib.import_module(f"{program.__name__}.main")
        prepare_run = importlib.import_module("safe_rlhf_panacea.algorithms.starting").prepare_run
    args = program.parse_arguments(flags(job))
    first = str(folder_of(job) / OBJECTIVES[0])  # what the plain trainers read besides
    vars(args).update(reward_model_name_or_path=first, reward_critic_model_name_or_path=None)
    configs = prepare_run(args)
    name = f"{algorithm.upper()}Trainer"
    if job["trainer"] == "plain":
        kind = getattr(base, name)
    else:
        module = importlib.import_module(f"safe_rlhf_panacea.algorithms.{algorithm}.trainer")
        kind = getattr(module, f"Panacea{name}")
    trainer = kind(args, *configs)
    trainer.logger = _Silent()
    return trainer
