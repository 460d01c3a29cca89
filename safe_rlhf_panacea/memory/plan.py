"""From what a training holds to what a card holds: ZeRO, offloading, optimiser, and advice."""

from __future__ import annotations

from dataclasses import dataclass

from safe_rlhf_panacea.memory.held import Held
from safe_rlhf_panacea.memory.options import MemoryOptions

GIB = 2**30
# Not computed: the driver's context, libraries' workspaces, and what the allocator cannot fill.
ALLOWANCE = 2 * GIB
# DeepSpeed's defaults, in elements: what it reduces at a time, and what ZeRO 3 gathers at most.
BUCKET, GATHERED = 500_000_000, 1_000_000_000


@dataclass(frozen=True)
class Plan:
    """What one card holds, in bytes.

    Attributes:
        standing: what is there all the time, by name.
        parts: of a step, one at a time, by name, as the flags have recomputation.
        other: the same parts with recomputation the other way.
    """

    standing: dict[str, int]
    parts: dict[str, int]
    other: dict[str, int]

    @property
    def total(self) -> int:
        """All that is there all the time, and the largest part."""
        return sum(self.standing.values()) + max(self.parts.values())

    @property
    def other_total(self) -> int:
        """``total`` with recomputation the other way."""
        return sum(self.standing.values()) + max(self.other.values())


def plan(held: Held, args: MemoryOptions) -> Plan:
    """Share out what a training holds, as ``--zero_stage``, ``--offload`` and ``--gpus`` say."""
    stage, cards = args.zero_stage, args.gpus
    half = held.element == 2

    def share(size: int, from_stage: int) -> int:
        return -(-size // cards) if stage >= from_stage else size

    away = args.offload in ("parameter", "all")
    # Below float32 a master copy, its gradient and AdamW's two moments; else the moments alone.
    states = 16 if half else 8
    standing = {
        "weights": 0 if away else share(held.weights, 3),
        "adapters": 0 if away else share(held.trained * held.element, 3),
        "gradients": share(held.trained * held.element, 2),
        "optimiser": 0 if args.offload in ("optimizer", "all") else share(held.trained * states, 1),
        "buffers": held.engines * BUCKET * held.element if stage else 0,
        "gathered": min(held.largest, GATHERED * held.element) if stage == 3 else 0,
        "allowance": 0 if args.device == "cpu" else ALLOWANCE,
    }
    kept = {name: part.kept for name, part in held.parts.items()}
    recomputed = {name: part.recomputed for name, part in held.parts.items()}
    parts, other = (recomputed, kept) if args.gradient_checkpointing else (kept, recomputed)
    return Plan(standing, parts, other)


def _rows(found: Plan, rows: int, room: float) -> int:
    """How many of so many rows fit, the largest part growing with them."""
    return int(rows * room / max(found.parts.values()))


def advice(found: Plan, held: Held, args: MemoryOptions) -> list[str]:
    """Which flags to change where it does not fit, the cheapest first."""
    card = args.card_gib * GIB
    told = []
    standing = sum(found.standing.values())
    if not args.gradient_checkpointing and found.other_total < found.total:
        told.append(f"--gradient_checkpointing true: {found.other_total / GIB:.1f} GiB")
    rows = args.per_device_train_batch_size
    fits = _rows(found, rows, card - standing)
    least = args.group if args.algorithm == "grpo" else 1
    fits -= fits % least
    if least <= fits < rows:
        told.append(
            f"--per_device_train_batch_size {fits}, about, and {-(-rows // fits)} times as many "
            "--gradient_accumulation_steps: the same update"
        )
    if not args.bf16:
        told.append("--bf16 true: half of weights and activations")
    if args.zero_stage < 3:
        sharded = args.with_(zero_stage=3, gpus=max(args.gpus, 8))
        each = plan(held, sharded).total / GIB
        told.append(f"--zero_stage 3 on {sharded.gpus} cards: {each:.1f} GiB each")
    if args.has_rewards and held.models > 1:
        told.append("a reward that is a function (--reward_models NAME=module:function)")
    return told
