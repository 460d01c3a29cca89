"""The program: flags as those of the training programs, a table, and what to change."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.errors import UserError, one_line_errors
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


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training, in the training programs' names")
    positive = arguments.positive_int
    for flag, default, text in (
        ("max_length", 512, "tokens in a sequence"),
        ("mean_length", None, "attended tokens on average (default: max_length, the worst case)"),
        ("prompt_length", 1, "of it, tokens whose log-probability nobody asks (default: 1)"),
        ("max_tokens_per_pass", None, "(default: 1024 on a CPU, else 16384)"),
        ("per_device_train_batch_size", 16, "pairs or sequences in a backward pass"),
        ("per_device_prompt_batch_size", 16, "prompts in a rollout"),
        ("num_return_sequences", None, "responses to each prompt (default: 1, GRPO 8)"),
        ("lora_dim", 8, "k singular values"),
    ):
        group.add_argument(f"--{flag}", type=positive, default=default, help=text)
    group.add_argument("--lora_module_name", help="adapt layers named like this")
    arguments.add_flag(group, "--bf16", True, "bfloat16 (default here, as in the launchers: true)")
    arguments.add_flag(
        group, "--gradient_checkpointing", True, "recompute activations (default here: true)"
    )
    arguments.add_flag(group, "--ptx", False, "with --ptx_datasets")


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = arguments.ArgumentParser(
        PROGRAM,
        """
        Say what each card will hold in a training, from the models' configurations alone: the
        step runs on tensors that have sizes but no memory. No weights are read or downloaded.
        Exit code 1: it does not fit, and what to change is said.
        """,
        f"""
        {PROGRAM} --model meta-llama/Llama-2-7b-hf --algorithm ppo --objectives 2
        {PROGRAM} --model runs/sft --algorithm dpo --mean_length 180 --card_gib 24
        """,
    )
    parser.add_argument("--model", type=arguments.filled, required=True, help="folder or hub name")
    parser.add_argument("--algorithm", choices=("dpo", "ppo", "grpo", "sft"), required=True)
    parser.add_argument("--objectives", type=arguments.positive_int, default=2, help="m")
    parser.add_argument(
        "--reward_models",
        type=arguments.named_value,
        nargs="+",
        metavar="NAME=PATH",
        help="default: for each objective a model of the policy's size; functions cost nothing",
    )
    arguments.add_flag(parser, "--trust_remote_code", False, "run code that comes with a model")
    _add_training(parser)
    group = parser.add_argument_group("cards")
    group.add_argument("--zero_stage", type=int, default=0, choices=(0, 1, 2, 3))
    offload = ("none", "parameter", "optimizer", "all")
    group.add_argument("--offload", choices=offload, default="none")
    group.add_argument("--gpus", type=arguments.positive_int, default=1, help="processes")
    group.add_argument("--card_gib", type=arguments.positive_float, default=80.0, help="of a card")
    group.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_flag(parser, "--json", False, "as JSON, in bytes")
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags.

    Raises:
        UserError: flags that contradict each other.
    """
    args = build_parser().parse_args(argv)
    if args.num_return_sequences is None:
        args.num_return_sequences = 8 if args.algorithm == "grpo" else 1
    if args.mean_length is not None and args.mean_length > args.max_length:
        raise UserError(f"--mean_length {args.mean_length} is above --max_length {args.max_length}")
    if args.prompt_length >= args.max_length:
        raise UserError(
            f"--prompt_length {args.prompt_length} fills --max_length {args.max_length}"
        )
    if args.reward_models is not None:
        if args.algorithm not in ("ppo", "grpo"):
            raise UserError(f"--reward_models: --algorithm {args.algorithm} has none")
        if len(args.reward_models) != args.objectives:
            raise UserError(
                f"--objectives is {args.objectives}, but there are {len(args.reward_models)} "
                "--reward_models"
            )
    return args


def read_configs(args: argparse.Namespace) -> tuple[Any, list[Any]]:
    """Configurations of the policy and of the reward models that are models."""
    from safe_rlhf_panacea.memory.models import read_config
    from safe_rlhf_panacea.rewards.spec import reward_specs

    def read(name: str) -> Any:
        return read_config(name, trust_remote_code=args.trust_remote_code)

    policy = read(args.model)
    if args.algorithm not in ("ppo", "grpo"):
        return policy, []
    if args.reward_models is None:
        return policy, [policy] * args.objectives
    specs = reward_specs(args.reward_models)
    return policy, [read(spec.model_path) for spec in specs if not spec.is_function]


def table(found: Any, held: Any, args: argparse.Namespace) -> list[str]:
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
    args = parse_arguments(argv)
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
