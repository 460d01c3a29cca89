"""The program: from what a training holds to what each card holds, as a table, and advice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from safe_rlhf_panacea.configs import Options, Program, kinds, option
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import say

if TYPE_CHECKING:
    from safe_rlhf_panacea.memory.held import Held

PROGRAM = "python -m safe_rlhf_panacea.memory"
GIB = 2**30
# Not computed: the driver's context, libraries' workspaces, and what the allocator cannot fill.
ALLOWANCE = 2 * GIB
# DeepSpeed's defaults, in elements: what it reduces at a time, and what ZeRO 3 gathers at most.
BUCKET, GATHERED = 500_000_000, 1_000_000_000
TEXTS = {
    "weights": "frozen weights and buffers of all models",
    "adapters": "adapters (and value head)",
    "gradients": "gradients of these",
    "optimiser": "their optimiser states, and master copies",
    "buffers": "DeepSpeed's buckets",
    "gathered": "weights that ZeRO 3 gathers, at most",
    "allowance": "driver, libraries, fragmentation (assumed)",
    "generation": "generation, with its cache",
    "scoring": "reference and reward models' passes",
    "reference": "the reference's pass",
    "update": "forward and backward pass",
    "ptx": "forward and backward pass, PTX",
}


class PlannedModels(Options):
    """The models of the training."""

    model: str = option(text="folder or hub name", required=True)
    algorithm: Literal["dpo", "ppo", "grpo", "sft"] = option(required=True)
    objectives: int = option(2, "m")
    reward_models: tuple[kinds.NamedPath, ...] | None = option(
        text="default: for each objective a model of the policy's size; functions cost nothing"
    )
    trust_remote_code: bool = option(False, "run code that comes with a model")


class PlannedTraining(Options, group="training, in the training programs' names"):
    """What the training does."""

    max_length: int = option(512, "tokens in a sequence")
    mean_length: int | None = option(
        text="attended tokens on average (default: max_length, the worst case)"
    )
    prompt_length: int = option(1, "of it, tokens whose log-probability nobody asks")
    max_tokens_per_pass: int | None = option(text="(default: 1024 on a CPU, else 16384)")
    per_device_train_batch_size: int = option(16, "pairs or sequences in a backward pass")
    per_device_prompt_batch_size: int = option(16, "prompts in a rollout")
    num_return_sequences: int | None = option(text="responses to each prompt (default: 1, GRPO 8)")
    lora_dim: int = option(8, "k singular values")
    lora_module_name: kinds.Text = option("layers.", "adapt layers named like this")
    bf16: bool = option(True, "bfloat16 (default here, as in the launchers: true)")
    gradient_checkpointing: bool = option(True, "recompute activations (default here: true)")
    ptx: bool = option(False, "with --ptx_datasets")


class MemoryOptions(PlannedTraining, PlannedModels, group="cards"):
    """Say what each card will hold in a training, from the models' configurations alone.

    The step runs on tensors that have sizes but no memory; no weights are read or downloaded.
    Exit code 1: it does not fit, and what to change is said.
    """

    zero_stage: Literal[0, 1, 2, 3] = option(0)
    offload: Literal["none", "parameter", "optimizer", "all"] = option("none")
    gpus: int = option(1, "processes")
    card_gib: kinds.Positive = option(80.0, "of a card")
    device: Literal["cuda", "cpu"] = option("cuda")
    json: bool = option(False, "as JSON, in bytes")

    @property
    def group(self) -> int:
        """Responses to each prompt."""
        return self.num_return_sequences or (8 if self.algorithm == "grpo" else 1)

    @property
    def has_rewards(self) -> bool:
        """Whether the algorithm learns from rewards."""
        return self.algorithm in ("ppo", "grpo")

    def check(self) -> None:
        """Refuse lengths and rewards that contradict each other."""
        if self.mean_length is not None and self.mean_length > self.max_length:
            raise UserError(
                f"--mean_length {self.mean_length} is above --max_length {self.max_length}"
            )
        if self.prompt_length >= self.max_length:
            raise UserError(
                f"--prompt_length {self.prompt_length} fills --max_length {self.max_length}"
            )
        if self.reward_models is None:
            return
        if not self.has_rewards:
            raise UserError(f"--reward_models: --algorithm {self.algorithm} has none")
        if len(self.reward_models) != self.objectives:
            raise UserError(
                f"--objectives is {self.objectives}, but there are {len(self.reward_models)} "
                "--reward_models"
            )


COMMAND = Program(
    MemoryOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --model meta-llama/Llama-2-7b-hf --algorithm ppo --objectives 2
    {PROGRAM} --model runs/sft --algorithm dpo --mean_length 180 --card_gib 24
    """,
)


@dataclass
class Plan:
    """What one card holds, in bytes by name."""

    standing: dict[str, int]  # there all the time
    parts: dict[str, int]  # of a step, one at a time, as the flags have recomputation
    other: dict[str, int]  # the same with recomputation the other way

    def __post_init__(self) -> None:
        """Add what is there all the time and the largest part, either way."""
        standing = sum(self.standing.values())
        self.total = standing + max(self.parts.values())
        self.other_total = standing + max(self.other.values())


def plan(held: Held, args: MemoryOptions) -> Plan:
    """Share out what a training holds, as ``--zero_stage``, ``--offload`` and ``--gpus`` say."""
    stage, cards = args.zero_stage, args.gpus

    def share(size: int, from_stage: int) -> int:
        return -(-size // cards) if stage >= from_stage else size

    away = args.offload in ("parameter", "all")
    # Below float32 a master copy, its gradient and AdamW's two moments; else the moments alone.
    states = 16 if held.element == 2 else 8
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
    if args.gradient_checkpointing:
        return Plan(standing, recomputed, kept)
    return Plan(standing, kept, recomputed)


def advice(found: Plan, held: Held, args: MemoryOptions) -> list[str]:
    """Which flags to change where it does not fit, the cheapest first."""
    told = []
    if not args.gradient_checkpointing and found.other_total < found.total:
        told.append(f"--gradient_checkpointing true: {found.other_total / GIB:.1f} GiB")
    rows = args.per_device_train_batch_size
    room = args.card_gib * GIB - sum(found.standing.values())
    fits = int(rows * room / max(found.parts.values()))  # the largest part grows with them
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


def _read_configs(args: MemoryOptions) -> tuple[Any, list[Any]]:
    """Configurations of the policy and of the reward models that are models."""
    from safe_rlhf_panacea.models.loading import read_model_config
    from safe_rlhf_panacea.rewards.spec import reward_specs

    def read(name: Any) -> Any:
        return read_model_config(name, trust_remote_code=args.trust_remote_code)

    policy = read(args.model)
    if not args.has_rewards:
        return policy, []
    if args.reward_models is None:
        return policy, [policy] * args.objectives
    specs = reward_specs(args.reward_models)
    return policy, [read(spec.model_path) for spec in specs if not spec.is_function]


def _table(found: Plan, logits: int, ways: tuple[str, str]) -> str:
    """Lines of text, in GiB."""
    rows = [(TEXTS[name], size, size) for name, size in found.standing.items() if size]
    rows += [("and one after the other:",)]
    rows += [(f"  {TEXTS[name]}", size, found.other[name]) for name, size in found.parts.items()]
    rows += [("at most", found.total, found.other_total)]
    lines = [f"{'GiB on each card':46}{''.join(f'{way:>10}' for way in ways)}"]
    for text, *sizes in rows:
        numbers = "".join(f"{size / GIB:10.2f}" for size in sizes)
        lines.append(f"{text:46}{numbers}" if sizes else text)
    return "\n".join([*lines, f"(of the parts, logits are {logits / GIB:.2f} at most)"])


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; exit code 1 where it does not fit."""
    args = COMMAND.read(argv)
    configs = _read_configs(args)
    from safe_rlhf_panacea.memory.held import held

    measured = held(args, *configs)
    found = plan(measured, args)
    fits = found.total <= args.card_gib * GIB
    changes = [] if fits else advice(found, measured, args)
    if args.json:
        body = {"standing": found.standing, "parts": found.parts, "total": found.total}
        other = {"parts": found.other, "total": found.other_total}
        say(json.dumps({**body, "recomputation_the_other_way": other, "advice": changes}, indent=2))
        return int(not fits)
    logits = max(part.logits for part in measured.parts.values())
    ways = ("recomputed", "kept") if args.gradient_checkpointing else ("kept", "recomputed")
    say(_table(found, logits, ways))
    verdict = "fits" if fits else "does not fit"
    say(f"{verdict} a card of {args.card_gib:g} GiB{'; what helps:' if changes else ''}")
    for change in changes:
        say(f"  {change}")
    return int(not fits)


if __name__ == "__main__":
    raise SystemExit(main())
