"""Ways to train, and which of them must come to the same.

Nothing is recorded for these: both sides are today's.

What is drawn anew for every batch differs by design between runs that cut their batches
differently, so there the comparison takes it away:

- λ: one process and two share it (``--preference_scope batch``); under gradient accumulation every
  micro batch has its own, so those runs take one λ per sequence from ``DealtPreferences``.
- Sampled tokens: PPO is greedy there (``--temperature 0``), and its prompts are of one length,
  because a shorter batch leaves more room for answers.
- What is logged of the labelled pairs of a micro-batch: both objectives label every pair.
"""

from __future__ import annotations

from dataclasses import dataclass

from safe_rlhf_panacea.regression.tiny_runs import BATCH, STEPS


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        flags: added to the common ones.
        processes: 1, or more under torchrun with gloo.
        dealt: whether λ is dealt row by row.
    """

    flags: tuple[str, ...] = ()
    processes: int = 1
    dealt: bool = False


@dataclass(frozen=True)
class Equivalence:
    """Two ways that must agree."""

    name: str
    algorithm: str
    one: Way
    other: Way


WHOLE = ("--per_device_train_batch_size", str(2 * BATCH))
PER_SAMPLE = ("--preference_scope", "sample")
MICRO = ("--gradient_accumulation_steps", "2", "--max_steps", str(2 * STEPS))
ZERO_2 = ("--zero_stage", "2")
PROMPTS = ("--per_device_prompt_batch_size", str(2 * BATCH))
GREEDY = ("--temperature", "0")
RECOMPUTE = ("--actor_gradient_checkpointing", "--critic_gradient_checkpointing")

DPO = Way(WHOLE)
PPO = Way((*WHOLE, *PROMPTS))
GREEDY_PPO = Way((*PPO.flags, *GREEDY))

EQUIVALENCES = (
    Equivalence(
        "accumulation 2 × batch 8 = batch 16",
        "dpo",
        Way((*WHOLE, *PER_SAMPLE), dealt=True),
        Way((*PER_SAMPLE, *MICRO), dealt=True),
    ),
    Equivalence("two processes = one", "dpo", DPO, Way(processes=2)),
    Equivalence(
        "gradient checkpointing = none", "dpo", DPO, Way((*WHOLE, "--gradient_checkpointing"))
    ),
    Equivalence("ZeRO 2 = ZeRO 0", "dpo", DPO, Way((*WHOLE, *ZERO_2))),
    Equivalence("ZeRO 2 on two processes = ZeRO 0 on one", "dpo", DPO, Way(ZERO_2, processes=2)),
    Equivalence(
        "accumulation 2 × batch 8 = batch 16",
        "ppo",
        Way((*GREEDY_PPO.flags, *PER_SAMPLE), dealt=True),
        Way((*PROMPTS, *GREEDY, *PER_SAMPLE, *MICRO), dealt=True),
    ),
    Equivalence("two processes = one", "ppo", GREEDY_PPO, Way(GREEDY, processes=2)),
    Equivalence("gradient checkpointing = none", "ppo", PPO, Way((*PPO.flags, *RECOMPUTE))),
    Equivalence("ZeRO 2 = ZeRO 0", "ppo", PPO, Way((*PPO.flags, *ZERO_2))),
    Equivalence(
        "ZeRO 2 on two processes = ZeRO 0 on one",
        "ppo",
        GREEDY_PPO,
        Way((*GREEDY, *ZERO_2), processes=2),
    ),
)
