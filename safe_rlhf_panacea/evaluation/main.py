"""The command line of evaluation: a method's front, as numbers, table and picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.arguments import (
    ArgumentParser,
    add_flag,
    filled,
    finite_float,
    positive_float,
)
from safe_rlhf_panacea.base.datasets import PreferenceDataset
from safe_rlhf_panacea.base.datasets.specs import read_specs
from safe_rlhf_panacea.base.run_record import (
    check_own_output,
    prepare_output_dir,
    write_run_record,
)
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.accuracy_front import evaluate_accuracy_front
from safe_rlhf_panacea.evaluation.arguments import (
    add_reward_flags,
    add_sampling_flags,
    load_model,
    load_rewards,
    read_prompts,
    read_rewards,
    sampling_config,
)
from safe_rlhf_panacea.evaluation.front import Front, FrontPoint
from safe_rlhf_panacea.evaluation.plots import plot_fronts
from safe_rlhf_panacea.evaluation.policies import LABELS, Member, Policies, read_member
from safe_rlhf_panacea.evaluation.results import (
    FRONT_FILE,
    RESPONSES_FILE,
    evaluation_result,
    join,
)
from safe_rlhf_panacea.evaluation.reward_front import Response, evaluate_reward_front
from safe_rlhf_panacea.evaluation.tables import front_table, indicator_table
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.preference import default_grid, preference_grid
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.evaluation"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Evaluate a method at every λ of a grid: one Panacea adapter, the ingredients of a
        soup, or discrete policies, each at the λ that it was trained for.

        With --reward_models: mean reward per objective of sampled responses to prompts.
        Without: accuracy of the implicit reward on labelled pairs.
        """,
        f"""
        {PROGRAM} --adapter runs/panacea-dpo --datasets pairs:1:test.jsonl --output_dir runs/front
        {PROGRAM} --adapter runs/panacea-ppo --datasets prompts:1:test.jsonl \\
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
    parser.add_argument("--label", help="in tables and pictures; default: the method's name")
    parser.add_argument("--base_model", help="default: the one that the adapter names")
    parser.add_argument("--output_dir", type=filled, required=True)
    add_flag(parser, "--overwrite", False, "replace a result that the folder already holds")
    add_reward_flags(parser)
    parser.add_argument(
        "--reward_calibration", metavar="FILE", help="of evaluation.calibrate, as PPO had it"
    )
    add_flag(parser, "--with_base", True, "with rewards: evaluate the initial model as well")
    parser.add_argument(
        "--grid_step",
        type=positive_float,
        help="of λ; default: 0.1, a coarser one from 5 objectives on (at most 300 λ)",
    )
    parser.add_argument(
        "--reference_point", type=finite_float, nargs="+", help="default: 0 everywhere"
    )
    add_sampling_flags(parser)
    return parser


def read_points(
    args: argparse.Namespace, objectives: Sequence[str]
) -> tuple[torch.Tensor, list[float]]:
    """The λ to evaluate, size = (N, m), and the reference point.

    Raises:
        UserError: a reference point of another length.
        PreferenceError: a step that makes no grid.
    """
    count = len(objectives)
    reference = args.reference_point or [0.0] * count
    if len(reference) != count:
        raise UserError(f"--reference_point needs {count} numbers, not {len(reference)}")
    step = args.grid_step
    return default_grid(count) if step is None else preference_grid(count, step), reference


def load_policies(args: argparse.Namespace, members: Sequence[Member]) -> tuple[Any, Any, Policies]:
    """The base model with what is evaluated on it, and its tokenizer."""
    base = args.base_model or members[0].config.base_model
    if base is None:
        raise UserError(f"{args.adapter[0]} names no base model: give one with --base_model")
    method = args.method or ("panacea" if len(members) == 1 else "rewarded_soups")
    model, tokenizer = load_model(args, base)
    return model, tokenizer, Policies(model, members, method)


def reward_front(
    args: argparse.Namespace, loaded: tuple[Any, Any, Policies], grid: torch.Tensor, label: str
) -> tuple[Front, FrontPoint | None, list[Response]]:
    """Mean rewards at every λ, those of the base model if wanted, and all responses."""
    model, tokenizer, policies = loaded
    specs = read_rewards(args, policies.objectives)
    rewards = load_rewards(args, specs, tokenizer)
    prompts = read_prompts(args, tokenizer)

    def evaluate(grid: torch.Tensor, name: str, with_adapter: bool = True) -> Any:
        with nullcontext() if with_adapter else policies.adapter.disabled():
            return evaluate_reward_front(
                model,
                policies.adapter if with_adapter else None,
                tokenizer,
                rewards,
                prompts,
                grid,
                sampling_config(args, tokenizer),
                objectives=policies.objectives,
                seed=args.seed,
                prompts_per_batch=args.batch_size,
                label=name,
                progress=args.progress,
            )

    parts = [evaluate(part, label) for part in policies.parts(grid)]
    responses = [response for _, answers in parts for response in answers]
    base = None
    if args.with_base:
        # One row in place of a λ that the model without its adapter does not see.
        no_preference = torch.empty(1, 0)
        front, answers = evaluate(no_preference, "base", with_adapter=False)
        base, responses = front.points[0], answers + responses
    return join([front for front, _ in parts]), base, responses


def accuracy_front(
    args: argparse.Namespace, loaded: tuple[Any, Any, Policies], grid: torch.Tensor, label: str
) -> Front:
    """Accuracies of the implicit reward at every λ."""
    model, tokenizer, policies = loaded
    tokenizer.padding_side = "right"
    dataset = PreferenceDataset(
        args.datasets, tokenizer=tokenizer, objectives=policies.objectives, seed=args.seed
    )
    return join(
        [
            evaluate_accuracy_front(
                model,
                policies.adapter,
                dataset,
                part,
                pairs_per_batch=args.batch_size,
                label=label,
                progress=args.progress,
            )
            for part in policies.parts(grid)
        ]
    )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print the tables, write ``front.json`` and ``front.png``."""
    args = build_parser().parse_args(argv)
    check_own_output(args.output_dir, PROGRAM, args.overwrite)
    read_specs(args.datasets)
    members = [read_member(folder) for folder in args.adapter]
    objectives = members[0].config.objectives
    grid, reference = read_points(args, objectives)
    if args.reward_models:
        read_rewards(args, objectives)
    loaded = load_policies(args, members)
    policies = loaded[2]
    label = args.label or LABELS[policies.method]
    base, responses = None, None
    if args.reward_models:
        kind = "reward"
        front, base, responses = reward_front(args, loaded, grid, label)
    else:
        kind = "accuracy"
        front = accuracy_front(args, loaded, grid, label)
    result = evaluation_result(front, policies, kind, reference, base)
    folder = prepare_output_dir(args.output_dir, overwrite=args.overwrite)
    if responses is not None:
        atomic_write_json(folder / RESPONSES_FILE, [vars(response) for response in responses])
    write_result(args, folder, front, result)
    say(f"{front_table(front)}\n\n{indicator_table({label: result})}")
    say(f"\nWritten to {folder}: {FRONT_FILE}, front.png")


def write_result(
    args: argparse.Namespace, folder: Path, front: Front, result: dict[str, Any]
) -> None:
    """``front.json``, ``front.png``, and the record last: it says that the folder is complete."""
    atomic_write_json(folder / FRONT_FILE, result)
    plot_fronts(
        [front],
        folder / "front.png",
        title=f"Front of {front.label}",
        reference_point=result["reference_point"],
        axis_labels=result["axis_labels"],
    )
    write_run_record(folder, args, {"program": PROGRAM})
