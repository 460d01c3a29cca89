"""The command line of evaluation: a method's front, as numbers, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.rewarded import ResponseOptions
from safe_rlhf_panacea.configs.training import TEMPLATE
from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.distributed import init_if_launched, is_main_process
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation import loading
from safe_rlhf_panacea.fronts.evaluations import RESPONSES_FILE
from safe_rlhf_panacea.fronts.measure import sample_base
from safe_rlhf_panacea.fronts.measurement import LOG_SIGMOID, Measurement
from safe_rlhf_panacea.fronts.over_grid import Policy
from safe_rlhf_panacea.fronts.result import FRONT_FILE, LABELS, FrontResult
from safe_rlhf_panacea.fronts.stats import VALUES_FILE, unit_name
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.models.adapted import base_of
from safe_rlhf_panacea.preference import default_grid, preference_grid
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rollouts.answering import answer_by_servers, check_grid
from safe_rlhf_panacea.runs.run_folder import check_own_output, prepare_output_dir
from safe_rlhf_panacea.runs.run_record import write_run_record
from safe_rlhf_panacea.show.tables import front_table, indicator_table

PROGRAM = "python -m safe_rlhf_panacea.evaluation"


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
    label: kinds.Text | None = option(None, "in tables and pictures; default: the method's name")
    base_model: str | None = option(text="default: the one that the adapter names")
    chat_template: kinds.Template | None = option(None, f"{TEMPLATE} (default: the adapter's)")
    output_dir: str = option(required=True)
    overwrite: bool = option(False, "replace a result that the folder already holds")
    reward_calibration: str | None = option(
        text="of evaluation.calibrate, as PPO had it", metavar="FILE"
    )
    cluster_column: kinds.Text | None = option(
        None,
        "with rewards: the data's column that names each prompt's family, such as its topic; "
        "intervals of comparisons then draw whole families",
        metavar="COLUMN",
    )
    with_base: bool = option(True, "with rewards: evaluate the initial model as well")
    grid_step: kinds.Positive | None = option(
        None, "of λ; default: 0.1, a coarser one from 5 objectives on (at most 300 λ)"
    )
    reference_point: tuple[float, ...] | None = option(
        text="of the hypervolume; default: two standard deviations below the mean rewards of the "
        "model with its adapter off, 0 for accuracies and --with_base false"
    )
    engine: Literal["own", "vllm"] = option("own", "who responds")
    server: tuple[kinds.Text, ...] | None = option(
        None, "of vLLM, with --engine vllm", metavar="URL"
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


def _for_rewards(
    options: EvaluationOptions, policy: Policy, objectives: Sequence[str], template: ChatTemplate
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to measure with rewards, and the names of the units and their families."""
    specs = loading.read_rewards(options, objectives, options.reward_calibration)
    rewards = loading.rewards_for(options, specs, policy.tokenizer, policy.sampling.stop_ids)
    prompts = loading.read_prompts(options, template)
    rewards.check_columns([prompt.example for prompt in prompts], "the prompts")
    units: dict[str, Any] = {"names": [unit_name(prompt.text) for prompt in prompts]}
    if options.cluster_column is not None:
        units["clusters"] = []
        for prompt in prompts:
            family = (prompt.example or {}).get(options.cluster_column)
            if family is None:
                column = f"--cluster_column {options.cluster_column}"
                raise UserError(f"{column}: the row of {prompt.text!r} lacks it")
            units["clusters"].append(str(family))
    base = sample_base(policy, rewards, prompts) if options.with_base else None
    return {"prompts": prompts, "rewards": rewards, "base": base}, units


def _for_pairs(
    options: EvaluationOptions, method: loading.Method, template: ChatTemplate
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to measure without rewards, and the names of the units, made of the pairs' tokens."""
    tokenizer, names = template.tokenizer, method.objectives
    tokenizer.padding_side = "right"
    pairs = PreferenceDataset(
        options.datasets, tokenizer, names, seed=options.seed, template=template
    )
    rows = (pairs[i] for i in range(len(pairs)))
    keys = ("better_input_ids", "worse_input_ids")
    units = [unit_name(*(row[key].tolist() for key in keys)) for row in rows]
    return {"pairs": pairs, "margin_scale": method.margin_scale}, {"names": units}


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print the tables, write ``front.json`` and ``front.png``."""
    options = COMMAND.read(argv)
    folder = Path(options.output_dir)
    check_own_output(folder, PROGRAM, options.overwrite)
    members = [loading.read_member(folder) for folder in options.adapter]
    first = members[0]
    objectives, point = first.config.objectives, options.reference_point
    count = len(objectives)
    if point is not None and len(point) != count:
        raise UserError(f"--reference_point needs {count} numbers, not {len(point)}")
    step = options.grid_step
    grid = default_grid(count) if step is None else preference_grid(count, step)  # size = (N, m)
    if options.server is not None:
        check_grid(grid)
    if options.reward_models:
        loading.read_rewards(options, objectives, options.reward_calibration)
    else:
        check_own_output(folder / LOG_SIGMOID, PROGRAM, overwrite=True)
    init_if_launched()
    with base_of(first.folder, first.config.base_model, options.base_model) as base:
        model, tokenizer = loading.load_model(options, base)
    method = loading.Method(model, members, options.method)
    label = options.label or LABELS[method.name]
    template = ChatTemplate.chosen(options.chat_template, method.chat_template, tokenizer)
    policy = loading.policy_of(options, model, method.adapter, template)
    if options.server is not None:
        answer_by_servers(model, method.adapter, first.folder, options.server, policy.sampling)
    if options.reward_models:
        what, units = _for_rewards(options, policy, objectives, template)
    else:
        what, units = _for_pairs(options, method, template)
    measured = method.measure(policy, grid, label=label, **what)
    if not is_main_process():
        return
    about = method.origin(label)
    result = measured.result(objectives, about, point, **units)
    if measured.margins is not None:
        losses = replace(measured, kind=LOG_SIGMOID).result(objectives, about, **units)
        _write(options, folder / LOG_SIGMOID, True, losses, template)
        say(f"{front_table(losses)}\n")
    _write(options, folder, options.overwrite, result, template, measured)
    say(f"{front_table(result)}\n\n{indicator_table([result])}")
    say(f"\nWritten to {folder}: {FRONT_FILE}, {VALUES_FILE}, front.png")
    if measured.margins is not None:
        say(f"and the same in nats, of the losses of the pairs, to its folder {LOG_SIGMOID}")


def _write(
    options: EvaluationOptions,
    folder: Path,
    overwrite: bool,
    result: FrontResult,
    template: ChatTemplate,
    measured: Measurement | None = None,
) -> None:
    """Numbers, responses, picture, and the record last: it says that the folder is complete."""
    folder = prepare_output_dir(folder, overwrite=overwrite)
    if measured is not None and options.reward_models:
        responses = [*measured.base_responses(), *measured.responses()]
        atomic_write_json(folder / RESPONSES_FILE, responses)
    result.save(folder, overwrite=True)  # the folder was prepared for it
    result.plot(folder / "front.png")
    write_run_record(folder, options, {"program": PROGRAM, "chat_template": template.recorded})


if __name__ == "__main__":
    main()
