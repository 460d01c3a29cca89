"""Trainers of this package and of Safe-RLHF, made by their own command lines, and TRL's."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from benchmarks.inputs import OBJECTIVES, ROWS, folder_of
from benchmarks.measuring import installed

Job = dict[str, Any]
# Imported by the way, sooner or later; the peak of memory is counted from after it.
LIBRARIES = ["deepspeed", "datasets", "transformers.models.llama.modeling_llama"]
CLIPPING = 1.0  # the norm of TRL's gradient, as this package's engine clips its own


class _Silent:
    """A logger that says nothing."""

    def print(self, *_: Any, **__: Any) -> None:
        """Take any message and write none of it."""

    log = close = print


def imports(algorithm: str) -> list[str]:
    """What a trainer's process imports before anything is measured."""
    package = f"safe_rlhf_panacea.algorithms.{algorithm}"
    return [package, f"{package}.trainer", *LIBRARIES, *["peft.tuners"] * installed("peft")]


def flags(job: Job) -> list[str]:
    """The command line, in Safe-RLHF's names."""
    folder, port = folder_of(job), job["base"] == "port"
    file = folder / "pairs" / "train.jsonl"
    kind = "pairs" if job["algorithm"] == "dpo" else "prompts"
    data = f"{kind}:1:{file}" if port else f"PKU-SafeRLHF/train:1:{file.parent}"
    common = [
        *("--train_datasets", data, "--max_length", str(job["longest"]), "--epochs", "1000"),
        *("--per_device_train_batch_size", str(job["batch"]), "--log_type", "none"),
        *("--gradient_accumulation_steps", "1", "--output_dir", str(folder / f"out-{os.getpid()}")),
        *("--overwrite", "true", "--bf16", str(job["device"] != "cpu").lower()),
        *("--lora_dim", str(job["lora_dim"]), *(("--progress", "false") if port else ())),
    ]
    if job["algorithm"] == "dpo":
        names = [f"objective_{i}" for i in range(job["objectives"])]
        names[: len(OBJECTIVES)] = OBJECTIVES[: len(names)]
        base = ["--model_name_or_path", str(folder / "base"), "--lr", "1e-4"]
        return [*base, "--pref_dim", str(len(names)), "--objectives", *names, *common]
    found = [
        *("--actor_model_name_or_path", str(folder / "base"), "--reward_models"),
        *(f"{name}={folder / name}" for name in OBJECTIVES),
        *("--per_device_prompt_batch_size", str(job["prompts"])),
        *("--actor_lr", "1e-4", "--critic_lr", "1e-4", *common),
    ]
    if job["ptx"]:
        found += ["--ptx_datasets", f"supervised:1:{folder / 'texts.jsonl'}"]
    return found


def make_trainer(job: Job) -> Any:
    """The trainer of a job, plain or Panacea's, ready to take steps."""
    from safe_rlhf_panacea import base
    from safe_rlhf_panacea.base.program import prepare_run

    package = f"safe_rlhf_panacea.algorithms.{job['algorithm']}"
    args = importlib.import_module(package).parse_arguments(flags(job))
    first = str(folder_of(job) / OBJECTIVES[0])  # what the plain trainers read besides
    vars(args).update(reward_model_name_or_path=first, reward_critic_model_name_or_path=None)
    configs = prepare_run(args)
    name = f"{job['algorithm'].upper()}Trainer"
    if job["trainer"] == "plain":
        kind = getattr(base, name)
    else:
        kind = getattr(importlib.import_module(f"{package}.trainer"), f"Panacea{name}")
    trainer = kind(args, *configs)
    trainer.logger = _Silent()
    return trainer


# -- TRL's DPO with PEFT's LoRA: its loss, and a plain loop around it -------------------------


def make_trl_trainer(job: Job) -> Any:
    """TRL's trainer; of its data set it only wants some rows to begin with."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder, on_cpu = folder_of(job), job["device"] == "cpu"
    rows = [
        {"prompt": row["prompt"], "chosen": row["response_0"], "rejected": row["response_1"]}
        for row in ROWS
    ]
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        beta=0.1,
        max_length=job["longest"],
        per_device_train_batch_size=job["batch"],
        gradient_checkpointing=False,
        bf16=not on_cpu,
        use_cpu=on_cpu,
        report_to="none",
        disable_tqdm=True,
    )
    rank = job["lora_dim"] + job["objectives"]
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "base"),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"),
    )


def trl_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """Better and worse sequences in one, as TRL has them; size = (2B, L)."""
    import torch

    ids, mask = (
        torch.cat([batch[f"better_{name}"], batch[f"worse_{name}"]])
        for name in ("input_ids", "attention_mask")
    )
    prompt = batch["prompt_length"].repeat(2).unsqueeze(1)
    counted = mask & (torch.arange(ids.size(1), device=ids.device) >= prompt)
    return {"input_ids": ids, "attention_mask": mask.long(), "completion_mask": counted.long()}


def make_trl_step(job: Job) -> Callable[..., None]:
    """A step with this package's optimiser: torch's fused AdamW."""
    import torch

    trainer = make_trl_trainer(job)
    model = trainer.model.to(job["device"]).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True)

    def step(**batch: Any) -> None:
        with trainer.compute_loss_context_manager():  # bfloat16 where that is asked for
            loss = trainer.compute_loss(model, trl_inputs(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIPPING)
        optimizer.step()
        optimizer.zero_grad()

    return step
