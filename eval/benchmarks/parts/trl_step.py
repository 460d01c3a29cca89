"""TRL's DPO with PEFT's LoRA: its loss, and a plain loop around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.parts.models import ROWS, folder_of

CLIPPING = 1.0  # the norm of the gradient, as this package's engine clips it


def make_trainer(job: dict[str, Any]) -> Any:
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


def _inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Better and worse sequences in one, as TRL has them; size = (2B, L)."""
    ids, mask = (
        torch.cat([batch[f"better_{name}"], batch[f"worse_{name}"]])
        for name in ("input_ids", "attention_mask")
    )
    prompt = batch["prompt_length"].repeat(2).unsqueeze(1)
    counted = mask & (torch.arange(ids.size(1), device=ids.device) >= prompt)
    return {"input_ids": ids, "attention_mask": mask.long(), "completion_mask": counted.long()}


def make_step(job: dict[str, Any]) -> Callable[..., None]:
    """A step with this package's optimiser: torch's fused AdamW."""
    trainer = make_trainer(job)
    model = trainer.model.to(job["device"]).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True)

    def step(**batch: torch.Tensor) -> None:
        with trainer.compute_loss_context_manager():  # bfloat16 where that is asked for
            loss = trainer.compute_loss(model, _inputs(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIPPING)
        optimizer.step()
        optimizer.zero_grad()

    return step
