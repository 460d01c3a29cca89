"""A rollout of PPO and its updates, beside Safe-RLHF's, and where the time goes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import measuring, trainers
from benchmarks.inputs import MODELS, job_of, pair_batches
from benchmarks.measuring import WHOLE, Case, Contender

MEAN_RESPONSE = 40  # tokens, with real lengths: each token ends it with the same probability
PHASES = {  # methods of the trainer
    "generate": "generation",
    "score": "scoring",
    "log_probs": "actor forward",
    "critic_values": "critic forward",
    "ptx_step": "PTX",
}


def cases(args: Namespace) -> Iterator[Case]:
    """Every model, trainer and kind of lengths; the breakdown is Panacea's, with PTX."""
    for model, kind in itertools.product(args.models, args.lengths):
        own = dict(algorithm="ppo", base="port", kind=kind, model=model, lora_dim=8)
        job = job_of(args, "ppo", trainers.imports("ppo"), **own, phases=False, ptx=False)
        for trainer in args.trainers:
            contenders = [Contender("this package", {**job, "trainer": trainer})]
            if measuring.installed("safe_rlhf"):
                theirs = {**job, "trainer": trainer, "base": "safe_rlhf"}
                contenders.append(Contender("Safe-RLHF", theirs, ours=False))
            yield Case(f"{model}, {trainer}, {kind} lengths", contenders)
        whole = {**job, "trainer": "panacea", "phases": True, "ptx": True}
        label = f"{model}, panacea with PTX, {kind} lengths"
        yield Case(label, [Contender("this package", whole)])


class Phases:
    """Times methods from outside; of two that are nested the outer one counts."""

    def __init__(self) -> None:
        self.watch: Any = None
        self.inside = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block, unless another phase does."""
        if self.inside:
            yield
            return
        self.inside = True
        try:
            with self.watch.time(name):
                yield
        finally:
            self.inside = False

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time a method, or a function of a module."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return inner(*args, **kwargs)

        setattr(owner, method, timed)

    def of_trainer(self, trainer: Any) -> None:
        """What a step of this package consists of."""
        for method, name in PHASES.items():
            self.wrap(trainer, method, name)
        reference = trainer.reference

        @contextmanager
        def timed_reference() -> Iterator[Any]:
            with self.phase("reference"), reference() as model:
                yield model

        trainer.reference = timed_reference
        for engine, role in (
            (trainer.actor_model, "actor"),
            (trainer.reward_critic_model, "critic"),
        ):
            for method in ("backward", "step"):
                self.wrap(engine, method, f"{role} backward and step")


def _prompts(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Batches of prompts and supervised text without end: ids and masks, padded on the left."""
    vocab = MODELS[job["model"]]["vocab_size"]
    for batch in pair_batches(job["kind"], job["prompts"], job["longest"], vocab, 2):
        width = int(batch["prompt_length"].max())
        ids, mask = (
            batch[f"better_{name}"][:, :width].clone() for name in ("input_ids", "attention_mask")
        )
        for row, length in enumerate(batch["prompt_length"].tolist()):
            ids[row, length:], mask[row, length:] = 0, False
            ids[row], mask[row] = ids[row].roll(width - length), mask[row].roll(width - length)
        text, attended = batch["better_input_ids"], batch["better_attention_mask"]
        yield {
            "prompts": {"input_ids": ids, "attention_mask": mask},
            "text": {"input_ids": text, "labels": text.clone(), "attention_mask": attended},
        }


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A trainer and its prompts."""
    import torch

    batches, phases = _prompts(job), Phases()
    trainer = trainers.make_trainer(job)
    # Responses are as long as the kind of lengths has them, whatever random weights say.
    vocab = MODELS[job["model"]]["vocab_size"]
    ends = [vocab] if job["kind"] == "equal" else list(range(vocab - vocab // MEAN_RESPONSE, vocab))
    config = trainer.generation_config
    if dataclasses.is_dataclass(config):
        trainer.generation_config = dataclasses.replace(config, eos_token_id=ends)
    else:
        config.eos_token_id = ends
    if job["phases"]:
        phases.of_trainer(trainer)

    def rollout_and_updates(prompts: dict[str, Any], text: dict[str, Any]) -> None:
        trainer.set_eval()
        rollouts = trainer.split_rl_micro_batches(prompts)
        texts = trainer.split_ptx_micro_batches(text) if job["ptx"] else [None] * len(rollouts)
        trainer.set_train()
        for rollout, one in zip(rollouts, texts, strict=True):
            trainer.rl_step(rollout)
            if one is not None:
                trainer.ptx_step(one)

    def work(watch: Any) -> None:
        device, phases.watch = torch.device(job["device"]), watch
        drawn = {
            name: {key: value.to(device) for key, value in batch.items()}
            for name, batch in next(batches).items()
        }
        with watch.time(WHOLE):
            rollout_and_updates(**drawn)
        parts = [times for name, times in watch.found.items() if name != WHOLE]
        if parts:
            whole = watch.found.pop(WHOLE)
            rest = {clock: whole[clock] - sum(part[clock] for part in parts) for clock in whole}
            watch.found |= {"the rest": rest, WHOLE: whole}

    return work
