"""One measurement of ``port_against_safe_rlhf.py``: the side that ``PANACEA_BASE`` names."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import resource
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from safe_rlhf_panacea import base
from safe_rlhf_panacea.algorithms.starting import prepare_run
from safe_rlhf_panacea.base.models import AutoModelForScore, load_pretrained_models

Job = dict[str, Any]
MIB = 1024**2
COUNTED = {"dpo": "train/loss", "ppo": "train/reward"}  # logged once a step on both sides


class Done(Exception):
    """Enough steps have been measured."""


class Meter:
    """A logger that looks at the clock."""

    def __init__(self, job: Job) -> None:
        """Nothing has happened yet."""
        self.job = job
        self.times: list[float] = []
        self.lengths: list[float] = []

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Note down a step; stop after the last."""
        del step
        if COUNTED[self.job["algorithm"]] not in metrics:
            return
        self.times.append(time.perf_counter())
        if "train/mean_generated_length" in metrics:
            self.lengths.append(float(metrics["train/mean_generated_length"]))
        if len(self.times) > self.job["warmup"] + self.job["steps"]:
            raise Done

    def print(self, *_: Any, **__: Any) -> None:
        """Say nothing."""

    close = print

    def report(self) -> dict[str, float]:
        """Steps per second after the warm-up, and how long responses were."""
        spent = self.times[-1] - self.times[self.job["warmup"]]
        found = {"steps_per_second": (len(self.times) - 1 - self.job["warmup"]) / spent}
        if self.lengths:
            found["mean_generated_length"] = sum(self.lengths) / len(self.lengths)
        return found


# -- the work -------------------------------------------------------------------------


def write_base(folder: Path, job: Job) -> int:
    """The miniature's data and tokenizer, and an untrained model of the size; its max_length."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from safe_rlhf_panacea.miniature.world import build_world

    world = build_world(folder / "world", job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(world.base_model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=job["width"],
        intermediate_size=5 * job["width"] // 2,
        num_hidden_layers=job["layers"],
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(job["seed"])
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [json.loads(text) for text in Path(world.pairs_train).read_text("utf-8").splitlines()]
    for row in rows:  # Safe-RLHF's fields, which the port reads too
        row["better_response_id"] = row.pop("better_helpful")
        row["safer_response_id"] = row.pop("better_harmless")
        row["is_response_0_safe"] = row["is_response_1_safe"] = True
    (folder / "pairs").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "pairs" / "train.jsonl").write_text(lines, encoding="utf-8")
    return world.max_length


def write_rewards(folder: Path) -> None:
    """Two reward models with heads of their own on the base model."""
    for name in ("helpful", "harmless"):
        model, tokenizer = load_pretrained_models(
            str(folder / "base"),
            auto_model_type=AutoModelForScore,
            auto_model_kwargs={"score_type": "reward", "fresh_head": True},
        )
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def prepare(job: Job) -> int:
    """Write data and models of a size; how long sequences get."""
    folder = folder_of(job)
    folder.mkdir(parents=True)
    max_length = write_base(folder, job)
    write_rewards(folder)
    return max_length


def folder_of(job: Job) -> Path:
    """Where the data and models of a size are."""
    return Path(job["work"]) / job["size"]


def flags(job: Job) -> list[str]:
    """The command line, in Safe-RLHF's names."""
    folder = folder_of(job)
    file = folder / "pairs" / "train.jsonl"
    dpo = job["algorithm"] == "dpo"
    kind = "pairs" if dpo else "prompts"
    data = f"PKU-SafeRLHF/train:1:{file.parent}"
    found = [
        *("--train_datasets", f"{kind}:1:{file}" if job["side"] == "port" else data),
        *("--max_length", str(job["max_length"]), "--epochs", "1000", "--seed", str(job["seed"])),
        *("--per_device_train_batch_size", str(job["batch_size"]), "--log_type", "none"),
        *("--gradient_accumulation_steps", "1", "--output_dir", str(folder / "out")),
        *("--overwrite", "true"),
    ]
    if job["side"] == "port":
        found += ["--progress", "false"]
    if dpo:
        return [
            *("--model_name_or_path", str(folder / "base"), "--lr", "1e-4"),
            *("--objectives", "helpful", "harmless", *found),
        ]
    return [
        *("--actor_model_name_or_path", str(folder / "base"), "--reward_models"),
        *(f"{name}={folder / name}" for name in ("helpful", "harmless")),
        *("--per_device_prompt_batch_size", str(job["batch_size"])),
        *("--actor_lr", "1e-4", "--critic_lr", "1e-4", *found),
    ]


def trainer_class(job: Job) -> Any:
    """The plain trainer of this side, or Panacea's on it."""
    name = job["algorithm"].upper()
    if job["trainer"] == "plain":
        return getattr(base, f"{name}Trainer")
    module = f"safe_rlhf_panacea.algorithms.{job['algorithm']}.trainer"
    return getattr(importlib.import_module(module), f"Panacea{name}Trainer")


# -- the measurement ------------------------------------------------------------------


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def backbones() -> int:
    """How many transformers' backbones are alive."""
    from transformers import LlamaModel

    gc.collect()
    return sum(isinstance(thing, LlamaModel) for thing in gc.get_objects())


def measure(job: Job) -> dict[str, Any]:
    """Train until enough steps have been measured."""
    folder = folder_of(job)
    program = importlib.import_module(f"safe_rlhf_panacea.algorithms.{job['algorithm']}.main")
    args = program.parse_arguments(flags(job))
    args.reward_model_name_or_path = str(folder / "helpful")  # for the plain trainers
    args.reward_critic_model_name_or_path = None
    configs = prepare_run(args, "benchmark")
    kind = trainer_class(job)
    before = resident_mib()
    trainer = kind(args, *configs)
    held = backbones()
    trainer.logger = meter = Meter(job)
    with suppress(Done):
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**meter.report(), "peak_mib": peak, "run_mib": peak - before, "backbones": held}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with redirect_stdout(sys.stderr):
        given = json.loads(sys.argv[1])
        result = prepare(given) if given["prepare"] else measure(given)
    print(json.dumps(result), flush=True)
