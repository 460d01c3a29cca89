"""One training step of DPO: Panacea's two objectives, and one objective that trains all weights.

Beside it Safe-RLHF's own trainer, and for Panacea TRL's with PEFT's LoRA of the same rank in a
plain loop, where these are installed.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks import finding, training
from benchmarks.measuring import Case, Contender
from benchmarks.sizes import MODELS

TITLE = "A step of DPO"
PLAIN_KEYS = ("better_input_ids", "better_attention_mask", "worse_input_ids")
PLAIN_KEYS += ("worse_attention_mask",)


def job_of(args: Namespace, model: str, **more: Any) -> dict[str, Any]:
    """What a worker is told, with the defaults."""
    found = {
        **dict(part="dpo", algorithm="dpo", base="port", trainer="panacea", peer=False),
        **dict(lora_dim=8, objectives=2, batch=args.batch, longest=args.longest, kind="real"),
        **dict(work=args.work, device=args.device, model=model, imports=training.imports("dpo")),
    }
    return found | more


def cases(args: Namespace) -> list[Case]:
    """Every model, trainer and kind of lengths."""
    found = []
    for model, trainer, kind in itertools.product(args.models, args.trainers, args.lengths):
        job = job_of(args, model, trainer=trainer, kind=kind)
        contenders = [Contender("this package", job)]
        if trainer == "panacea" and finding.installed("trl", "peft"):
            names = [*training.LIBRARIES, "trl.trainer.dpo_trainer", "peft"]
            contenders.append(
                Contender("TRL, PEFT LoRA", {**job, "peer": True, "imports": names}, ours=False)
            )
        if finding.installed("safe_rlhf"):
            contenders.append(Contender("Safe-RLHF", {**job, "base": "safe_rlhf"}, ours=False))
        found.append(Case(f"{model}, {trainer}, {kind} lengths", contenders))
    return found


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A trainer and its batches."""
    import torch

    from benchmarks.pairs import pair_batches

    vocab = MODELS[job["model"]]["vocab_size"]
    batches = pair_batches(job["kind"], job["batch"], job["longest"], vocab, job["objectives"])
    if job["peer"]:
        from benchmarks.parts.trl_step import make_step

        take_step = make_step(job)
    else:
        trainer = training.make_trainer(job)
        trainer.set_train()
        take_step = trainer.train_step

    def step(watch: Any) -> None:
        batch = next(batches)
        if job["trainer"] == "plain":
            batch = {name: batch[name] for name in PLAIN_KEYS}
        on_device = {k: v.to(torch.device(job["device"])) for k, v in batch.items()}
        with watch.time("step"):
            take_step(**on_device)

    return step
