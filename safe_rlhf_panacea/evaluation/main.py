"""The command line of evaluation: a method's front, as numbers, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from safe_rlhf_panacea.configs import Program, configuration, kinds, option
from safe_rlhf_panacea.configs.rewarded import ResponseOptions
from safe_rlhf_panacea.configs.training import TEMPLATE
from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.distributed import init_if_launched, is_main_process
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.loading import (
    Member,
    Method,
    load_model,
    policy_of,
    read_member,
    read_prompts,
    read_rewards,
    rewards_of,
)
from safe_rlhf_panacea.fronts.evaluations import RESPONSES_FILE
from safe_rlhf_panacea.fronts.measure import sample_base
from safe_rlhf_panacea.fronts.measurement import LOG_SIGMOID, Measurement
from safe_rlhf_panacea.fronts.over_grid import Prompt
from safe_rlhf_panacea.fronts.result import FRONT_FILE, LABELS, FrontResult
from safe_rlhf_panacea.fronts.stats import VALUES_FILE, unit_name
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.models.adapted import base_of
from safe_rlhf_panacea.preference import default_grid, preference_grid
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rollouts.answering import answer_by_servers
from safe_rlhf_panacea.runs.run_folder import check_own_output, prepare_output_dir
from safe_rlhf_panacea.runs.run_record import write_run_record
from safe_rlhf_panacea.show.tables import front_table, indicator_table

PROGRAM = "python -m safe_rlhf_panacea.evaluation"


@configuration
class EvaluationOptions(ResponseOptions):
    """Evaluate a method at every λ of a grid.

    It is one Panacea adapter, the ingredients of a soup, or discrete policies, each at the λ that
    it was trained for.

    With --reward_models: mean reward per objective of sampled responses to prompts.
    Without: accuracy of the implicit reward on labelled pairs, and in the folder log-sigmoid
    the mean log σ of its margins in nats, which tells small differences apart. Either way with
    the KL to the model with its adapter off. Under torchrun or deepspeed all processes share
    the work.
    """

    adapter: tuple[str, ...] = option(text="one folder, or several", required=True)
    method: Literal["discrete_policies", "panacea", "rewarded_soups"] | None = option(
        text="default: panacea, or a soup of several adapters"
    )
    label: str | None = option(
        text="in tables and pictures; default: the method's name", kind=kinds.text
    )
    base_model: str | None = option(text="default: the one that the adapter names")
    chat_template: str | None = option(
        text=f"{TEMPLATE} (default: the adapter's)", kind=kinds.chat_template, metavar="TEMPLATE"
    )
    output_dir: str = option(required=True)
    overwrite: bool = option(False, "replace a result that the folder already holds")
    reward_calibration: str | None = option(
        text="of evaluation.calibrate, as PPO had it", metavar="FILE"
    )
    cluster_column: str | None = option(
        text="with rewards: the data's column that names each prompt's family, such as its topic; "
        "intervals of comparisons then draw whole families",
        kind=kinds.text,
        metavar="COLUMN",
    )
    with_base: bool = option(True, "with rewards: evaluate the initial model as well")
    grid_step: float | None = option(
        text="of λ; default: 0.1, a coarser one from 5 objectives on (at most 300 λ)",
        kind=kinds.positive_float,
    )
    reference_point: tuple[float, ...] | None = option(
        text="of the hypervolume; default: two standard deviations below the mean rewards of the "
        "model with its adapter off, 0 for accuracies and --with_base false"
    )
    engine: Literal["own", "vllm"] = option("own", "who responds")
    server: tuple[str, ...] | None = option(
        text="of vLLM, with --engine vllm", kind=kinds.text, metavar="URL"
    )

    def check(self) -> None:
        """Refuse options that contradict each other, and a malformed data set."""
        read_specs(self.datasets)
        if self.cluster_column is not None and not self.reward_models:
            raise UserError("--cluster_column names families of prompts: it needs --reward_models")
        if (self.engine == "vllm") != (self.server is not None):
            raise UserError("--engine vllm and --server URL belong together")
        if self.engine == "vllm" and (len(self.adapter) > 1 or not self.reward_models):
            raise UserError("--engine vllm evaluates rewards of one Panacea adapter")


COMMAND = Program(
    EvaluationOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --adapter runs/panacea-dpo --datasets pairs:1:test.jsonl --output_dir runs/front
    {PROGRAM} --adapter runs/latest/panacea-ppo --datasets prompts:1:test.jsonl \\
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
      --output_dir runs/front
    {PROGRAM} --method discrete_policies --adapter runs/discrete/* \\
      --datasets pairs:1:test.jsonl --output_dir runs/front-discrete
    """,
)


def read_grid(options: EvaluationOptions, objectives: Sequence[str]) -> torch.Tensor:
    """The λ to evaluate, size = (N, m).

    Raises:
        UserError: a reference point of another length.
        PreferenceError: a step that makes no grid.
    """
    count, point, step = len(objectives), options.reference_point, options.grid_step
    if point is not None and len(point) != count:
        raise UserError(f"--reference_point needs {count} numbers, not {len(point)}")
    return default_grid(count) if step is None else preference_grid(count, step)


def load_method(options: EvaluationOptions, members: Sequence[Member]) -> tuple[Method, Any]:
    """The base model with what is evaluated on it, and its tokenizer."""
    with base_of(members[0].folder, members[0].config.base_model, options.base_model) as base:
        model, tokenizer = load_model(options, base)
    return Method(model, members, options.method), tokenizer


def measure_method(
    options: EvaluationOptions,
    method: Method,
    template: ChatTemplate,
    grid: torch.Tensor,
    label: str,
) -> tuple[Measurement, list[str], list[str] | None]:
    """Rewards of responses at every λ, or accuracies on pairs where there are no rewards.

    Returns:
        What was found, the names of the prompts or pairs, and their families where those are known.
    """
    names = method.objectives
    policy = policy_of(options, method.model, method.adapter, template)
    tokenizer = template.tokenizer
    what: dict[str, Any]
    clusters = None
    if options.server is not None:
        folder = method.members[0].folder
        answer_by_servers(method.model, method.adapter, folder, options.server, policy.sampling)
    if options.reward_models:
        rewards = rewards_of(
            options, read_rewards(options, names, options.reward_calibration), policy
        )
        prompts = read_prompts(options, template)
        rewards.check_columns([prompt.example for prompt in prompts], "the prompts")
        if options.cluster_column is not None:
            clusters = families_of(prompts, options.cluster_column)
        base = sample_base(policy, rewards, prompts) if options.with_base else None
        what = {"prompts": prompts, "rewards": rewards, "base": base}
        units = [unit_name(prompt.text) for prompt in prompts]
    else:
        tokenizer.padding_side = "right"
        pairs = PreferenceDataset(
            options.datasets, tokenizer, names, seed=options.seed, template=template
        )
        what = {"pairs": pairs, "margin_scale": method.scale_coeff}
        rows = (pairs[i] for i in range(len(pairs)))
        keys = ("better_input_ids", "worse_input_ids")
        units = [unit_name(*(row[key].tolist() for key in keys)) for row in rows]
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
    options = COMMAND.read(argv)
    check_own_output(options.output_dir, PROGRAM, options.overwrite)
    members = [read_member(folder) for folder in options.adapter]
    objectives = members[0].config.objectives
    grid = read_grid(options, objectives)
    if options.reward_models:
        read_rewards(options, objectives, options.reward_calibration)
    else:
        check_own_output(Path(options.output_dir) / LOG_SIGMOID, PROGRAM, overwrite=True)
    init_if_launched()
    method, tokenizer = load_method(options, members)
    label = options.label or LABELS[method.name]
    template = ChatTemplate.chosen(options.chat_template, method.chat_template, tokenizer)
    measured, names, clusters = measure_method(options, method, template, grid, label)
    if is_main_process():
        about = method.origin(label)
        units: dict[str, Any] = {"names": names, "clusters": clusters}
        result = measured.result(objectives, about, options.reference_point, **units)
        if measured.margins is not None:
            losses = replace(measured, kind=LOG_SIGMOID).result(objectives, about, **units)
            write(options, measured, losses, template, LOG_SIGMOID)
            say(f"{front_table(losses)}\n")
        write(options, measured, result, template)
        say(f"{front_table(result)}\n\n{indicator_table([result])}")
        say(f"\nWritten to {options.output_dir}: {FRONT_FILE}, {VALUES_FILE}, front.png")
        if measured.margins is not None:
            say(f"and the same in nats, of the losses of the pairs, to its folder {LOG_SIGMOID}")


def write(
    options: EvaluationOptions,
    measured: Measurement,
    result: FrontResult,
    template: ChatTemplate,
    below: str = "",
) -> None:
    """Numbers, responses, picture, and the record last: it says that the folder is complete.

    Args:
        options: of the program.
        measured: at every λ.
        result: of ``measured``.
        template: how conversations were written.
        below: a folder in the output folder.
    """
    folder = Path(options.output_dir) / below
    folder = prepare_output_dir(folder, overwrite=options.overwrite or bool(below))
    if options.reward_models:
        responses = [*measured.base_responses(), *measured.responses()]
        atomic_write_json(folder / RESPONSES_FILE, responses)
    result.save(folder, overwrite=True)  # the folder was prepared for it
    result.plot(folder / "front.png")
    about = {"program": PROGRAM, "chat_template": template.recorded}
    write_run_record(folder, options, about)
