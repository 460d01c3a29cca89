"""A training step of DPO: Panacea's two objectives, and one objective that trains all weights.

Beside it Safe-RLHF's own trainer, and for Panacea TRL's with PEFT's LoRA of the same rank in a
plain loop, where these are installed. And how a step of Panacea's grows.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import measuring, trainers
from benchmarks.inputs import MODELS, job_of, pair_batches
from benchmarks.measuring import Case, Contender

PLAIN_KEYS = ("better_input_ids", "better_attention_mask", "worse_input_ids")
PLAIN_KEYS += ("worse_attention_mask",)
# What a step may grow with, each on its own.
FACTORS = (1, 2, 4)
OBJECTIVES = (1, 2, 10)
LORA_DIMS = (8, 32, 128)
PROCESSES = (1, 2)  # each with a whole batch


def dpo_job(args: Namespace, model: str, **more: Any) -> dict[str, Any]:
    """What a worker is told, with the defaults."""
    own = dict(algorithm="dpo", base="port", trainer="panacea", peer=False, model=model)
    own |= dict(lora_dim=8, objectives=2, kind="real")
    return job_of(args, "dpo", trainers.imports("dpo"), **own) | more


def cases(args: Namespace) -> Iterator[Case]:
    """Every model, trainer and kind of lengths."""
    for model, trainer, kind in itertools.product(args.models, args.trainers, args.lengths):
        job = dpo_job(args, model, trainer=trainer, kind=kind)
        contenders = [Contender("this package", job)]
        if trainer == "panacea" and measuring.installed("trl", "peft"):
            names = [*trainers.LIBRARIES, "trl.trainer.dpo_trainer", "peft"]
            peer = {**job, "peer": True, "imports": names}
            contenders.append(Contender("TRL, PEFT LoRA", peer, ours=False))
        if measuring.installed("safe_rlhf"):
            contenders.append(Contender("Safe-RLHF", {**job, "base": "safe_rlhf"}, ours=False))
        yield Case(f"{model}, {trainer}, {kind} lengths", contenders)


def growth_cases(args: Namespace) -> Iterator[Case]:
    """One thing varied at a time, on equally long sequences; ratios are to the smallest."""

    def case(model: str, what: str, name: str, each: Sequence[int]) -> Case:
        jobs = {value: dpo_job(args, model, kind="equal", **{name: value}) for value in each}
        contenders = [Contender(f"{value} {what}", job) for value, job in jobs.items()]
        return Case(f"{model}, {what}", contenders)

    for model in args.models:
        pairs = [max(1, args.batch // 4) * factor for factor in FACTORS]
        yield case(model, "pairs", "batch", pairs)
        tokens = [args.longest // 2 * factor for factor in FACTORS]
        yield case(model, "tokens", "longest", tokens)
        yield case(model, "objectives", "objectives", OBJECTIVES)
        yield case(model, "lora_dim", "lora_dim", LORA_DIMS)
        if args.device == "cpu":
            job = dpo_job(args, model, kind="equal")
            several = [Contender(f"{n} processes", job, processes=n) for n in PROCESSES]
            yield Case(f"{model}, processes", several)


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A trainer and its batches."""
    import torch

    vocab = MODELS[job["model"]]["vocab_size"]
    batches = pair_batches(job["kind"], job["batch"], job["longest"], vocab, job["objectives"])
    if job["peer"]:
        take_step = trainers.make_trl_step(job)
    else:
        trainer = trainers.make_trainer(job)
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
