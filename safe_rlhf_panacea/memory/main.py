"""The program: a table, and what to change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from safe_rlhf_panacea.configs import Program
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.memory.options import MemoryOptions
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.memory"
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


COMMAND = Program(
    MemoryOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --model meta-llama/Llama-2-7b-hf --algorithm ppo --objectives 2
    {PROGRAM} --model runs/sft --algorithm dpo --mean_length 180 --card_gib 24
    """,
)


def read_configs(args: MemoryOptions) -> tuple[Any, list[Any]]:
    """Configurations of the policy and of the reward models that are models."""
    from safe_rlhf_panacea.memory.models import read_config
    from safe_rlhf_panacea.rewards.spec import reward_specs

    def read(name: Any) -> Any:
        return read_config(name, trust_remote_code=args.trust_remote_code)

    policy = read(args.model)
    if not args.has_rewards:
        return policy, []
    if args.reward_models is None:
        return policy, [policy] * args.objectives
    specs = reward_specs(args.reward_models)
    return policy, [read(spec.model_path) for spec in specs if not spec.is_function]


def table(found: Any, held: Any, args: MemoryOptions) -> list[str]:
    """Lines of text, in GiB."""
    from safe_rlhf_panacea.memory.plan import GIB

    def line(text: str, *sizes: int) -> str:
        return f"{text:46}" + "".join(f"{size / GIB:10.2f}" for size in sizes)

    ways = ("recomputed", "kept") if args.gradient_checkpointing else ("kept", "recomputed")
    lines = [f"{'GiB on each card':46}{''.join(f'{way:>10}' for way in ways)}"]
    lines += [line(TEXTS[name], size, size) for name, size in found.standing.items() if size]
    lines.append("and one after the other:")
    lines += [
        line(f"  {TEXTS[name]}", size, found.other[name]) for name, size in found.parts.items()
    ]
    lines.append(line("at most", found.total, found.other_total))
    logits = max(part.logits for part in held.parts.values())
    lines.append(f"(of the parts, logits are {logits / GIB:.2f} at most)")
    return lines


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; exit code 1 where it does not fit."""
    args = COMMAND.read(argv)
    configs = read_configs(args)
    from safe_rlhf_panacea.memory.held import held
    from safe_rlhf_panacea.memory.plan import GIB, advice, plan

    measured = held(args, *configs)
    found = plan(measured, args)
    fits = found.total <= args.card_gib * GIB
    changes = [] if fits else advice(found, measured, args)
    if args.json:
        body = {"standing": found.standing, "parts": found.parts, "total": found.total}
        other = {"parts": found.other, "total": found.other_total}
        say(json.dumps({**body, "recomputation_the_other_way": other, "advice": changes}, indent=2))
        return int(not fits)
    say("\n".join(table(found, measured, args)))
    verdict = "fits" if fits else "does not fit"
    say(f"{verdict} a card of {args.card_gib:g} GiB{'; what helps:' if changes else ''}")
    for change in changes:
        say(f"  {change}")
    return int(not fits)
