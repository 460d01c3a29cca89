"""The command line of evaluation: a method's front, as numbers, table and picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.arguments import (
    ArgumentParser,
    add_flag,
    add_template_argument,
    filled,
    finite_float,
    positive_float,
)
from safe_rlhf_panacea.base.distributed import init_if_launched, is_main_process
from safe_rlhf_panacea.base.models.of_adapter import base_of
from safe_rlhf_panacea.base.run_record import check_own_output, prepare_output_dir, write_run_record
from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.arguments import (
    add_reward_flags,
    add_sampling_flags,
    load_model,
    policy_of,
    read_prompts,
    read_rewards,
    rewards_of,
    utf8_text,
)
from safe_rlhf_panacea.fronts.measure import sample_base
from safe_rlhf_panacea.fronts.measurement import LOG_SIGMOID, RESPONSES_FILE, Measurement
from safe_rlhf_panacea.fronts.methods import Member, Method, read_member
from safe_rlhf_panacea.fronts.result import FRONT_FILE, LABELS, FrontResult
from safe_rlhf_panacea.fronts.sampling import Prompt
from safe_rlhf_panacea.fronts.units import VALUES_FILE, names_of_pairs, unit_name
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.preference import default_grid, preference_grid
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rollouts.answering import answer_by_servers
from safe_rlhf_panacea.show.tables import front_table, indicator_table

PROGRAM = "python -m safe_rlhf_panacea.evaluation"


def build_parser() -> argparse.ArgumentParser:
    """The parser of this program's flags."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Evaluate a method at every λ of a grid: one Panacea adapter, the ingredients of a
        soup, or discrete policies, each at the λ that it was trained for.

        With --reward_models: mean reward per objective of sampled responses to prompts.
        Without: accuracy of the implicit reward on labelled pairs, and in the folder log-sigmoid
        the mean log σ of its margins in nats, which tells small differences apart. Either way with
        the KL to the model with its adapter off. Under torchrun or deepspeed all processes share
        the work.
        """,
        f"""
        {PROGRAM} --adapter runs/panacea-dpo --datasets pairs:1:test.jsonl --output_dir runs/front
        {PROGRAM} --adapter runs/latest/panacea-ppo --datasets prompts:1:test.jsonl \\
          --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
          --output_dir runs/front
        {PROGRAM} --method discrete_policies --adapter runs/discrete/* \\
          --datasets pairs:1:test.jsonl --output_dir runs/front-discrete
        """,
    )
    parser.add_argument(
        "--adapter", type=filled, nargs="+", required=True, help="one folder, or several"
    )
    parser.add_argument(
        "--method", choices=sorted(LABELS), help="default: panacea, or a soup of several adapters"
    )
    text = "in tables and pictures; default: the method's name"
    parser.add_argument("--label", type=utf8_text, help=text)
    parser.add_argument("--base_model", help="default: the one that the adapter names")
    add_template_argument(parser, of_adapter=True)
    parser.add_argument("--output_dir", type=filled, required=True)
    add_flag(parser, "--overwrite", False, "replace a result that the folder already holds")
    add_reward_flags(parser)
    parser.add_argument(
        "--reward_calibration", metavar="FILE", help="of evaluation.calibrate, as PPO had it"
    )
    parser.add_argument(
        "--cluster_column",
        metavar="COLUMN",
        help="with rewards: the data's column that names each prompt's family, such as its topic; "
        "intervals of comparisons then draw whole families",
    )
    add_flag(parser, "--with_base", True, "with rewards: evaluate the initial model as well")
    parser.add_argument(
        "--grid_step",
        type=positive_float,
        help="of λ; default: 0.1, a coarser one from 5 objectives on (at most 300 λ)",
    )
    parser.add_argument(
        "--reference_point",
        type=finite_float,
        nargs="+",
        help="of the hypervolume; default: two standard deviations below the mean rewards of the "
        "model with its adapter off, 0 for accuracies and --with_base false",
    )
    add_sampling_flags(parser)
    parser.add_argument("--engine", choices=("own", "vllm"), default="own", help="who responds")
    parser.add_argument("--server", nargs="+", metavar="URL", help="of vLLM, with --engine vllm")
    return parser


def read_grid(args: argparse.Namespace, objectives: Sequence[str]) -> torch.Tensor:
    """The λ to evaluate, size = (N, m).

    Raises:
        UserError: a reference point of another length.
        PreferenceError: a step that makes no grid.
    """
    count, point, step = len(objectives), args.reference_point, args.grid_step
    if point is not None and len(point) != count:
        raise UserError(f"--reference_point needs {count} numbers, not {len(point)}")
    return default_grid(count) if step is None else preference_grid(count, step)


def load_method(args: argparse.Namespace, members: Sequence[Member]) -> tuple[Method, Any]:
    """The base model with what is evaluated on it, and its tokenizer."""
    with base_of(members[0].folder, members[0].config.base_model, args.base_model) as base:
        model, tokenizer = load_model(args, base)
    return Method(model, members, args.method), tokenizer


def measure_method(
    args: argparse.Namespace, method: Method, template: ChatTemplate, grid: torch.Tensor, label: str
) -> tuple[Measurement, list[str], list[str] | None]:
    """Rewards of responses at every λ, or accuracies on pairs where there are no rewards.

    Returns:
        What was found, the names of the prompts or pairs, and their families where those are known.
    """
    names = method.objectives
    policy = policy_of(args, method.model, method.adapter, template)
    tokenizer = template.tokenizer
    what: dict[str, Any]
    clusters = None
    if args.engine == "vllm":
        folder = method.members[0].folder
        answer_by_servers(method.model, method.adapter, folder, args.server, policy.sampling)
    if args.reward_models:
        rewards = rewards_of(args, read_rewards(args, names), policy)
        prompts = read_prompts(args, template)
        rewards.check_columns([prompt.example for prompt in prompts], "the prompts")
        if args.cluster_column is not None:
            clusters = families_of(prompts, args.cluster_column)
        base = sample_base(policy, rewards, prompts) if args.with_base else None
        what = {"prompts": prompts, "rewards": rewards, "base": base}
        units = [unit_name(prompt.text) for prompt in prompts]
    else:
        tokenizer.padding_side = "right"
        pairs = PreferenceDataset(
            args.datasets, tokenizer, names, seed=args.seed, template=template
        )
        what, units = {"pairs": pairs, "margin_scale": method.scale_coeff}, names_of_pairs(pairs)
    return method.measure(policy, grid, label=label, **what), units, clusters


def families_of(prompts: Sequence[Prompt], column: str) -> list[str]:
    """What stands in a column of each prompt's row.

    Raises:
        UserError: a row lacks it.
    """
    for prompt in prompts:
        if (prompt.example or {}).get(column) is None:
            raise UserError(f"--cluster_column {column}: the row of {prompt.text!r} lacks it")
    return [str(prompt.example[column]) for prompt in prompts if prompt.example]


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print the tables, write ``front.json`` and ``front.png``."""
    args = build_parser().parse_args(argv)
    check_own_output(args.output_dir, PROGRAM, args.overwrite)
    read_specs(args.datasets)
    members = [read_member(folder) for folder in args.adapter]
    objectives = members[0].config.objectives
    grid = read_grid(args, objectives)
    if args.reward_models:
        read_rewards(args, objectives)
    else:
        check_own_output(Path(args.output_dir) / LOG_SIGMOID, PROGRAM, overwrite=True)
        if args.cluster_column is not None:
            raise UserError("--cluster_column names families of prompts: it needs --reward_models")
    if (args.engine == "vllm") != (args.server is not None):
        raise UserError("--engine vllm and --server URL belong together")
    if args.engine == "vllm" and (len(members) > 1 or not args.reward_models):
        raise UserError("--engine vllm evaluates rewards of one Panacea adapter")
    init_if_launched()
    method, tokenizer = load_method(args, members)
    label = args.label or LABELS[method.name]
    template = ChatTemplate.chosen(args.chat_template, method.chat_template, tokenizer)
    measured, names, clusters = measure_method(args, method, template, grid, label)
    if is_main_process():
        about = method.origin(label)
        units: dict[str, Any] = {"names": names, "clusters": clusters}
        result = measured.result(objectives, about, args.reference_point, **units)
        if measured.margins is not None:
            losses = measured.in_log_sigmoid().result(objectives, about, **units)
            write(args, measured, losses, template, LOG_SIGMOID)
            say(f"{front_table(losses)}\n")
        write(args, measured, result, template)
        say(f"{front_table(result)}\n\n{indicator_table([result])}")
        say(f"\nWritten to {args.output_dir}: {FRONT_FILE}, {VALUES_FILE}, front.png")
        if measured.margins is not None:
            say(f"and the same in nats, of the losses of the pairs, to its folder {LOG_SIGMOID}")


def write(
    args: argparse.Namespace,
    measured: Measurement,
    result: FrontResult,
    template: ChatTemplate,
    below: str = "",
) -> None:
    """Numbers, responses, picture, and the record last: it says that the folder is complete.

    Args:
        args: the flags.
        measured: at every λ.
        result: of ``measured``.
        template: how conversations were written.
        below: a folder in the output folder.
    """
    folder = Path(args.output_dir) / below
    folder = prepare_output_dir(folder, overwrite=args.overwrite or bool(below))
    if args.reward_models:
        responses = [*measured.base_responses(), *measured.responses()]
        atomic_write_json(folder / RESPONSES_FILE, responses)
    result.save(folder, overwrite=True)  # the folder was prepared for it
    result.plot(folder / "front.png")
    about = {"program": PROGRAM, "chat_template": template.recorded}
    write_run_record(folder, args, about)
