"""Every sampler, aggregation and schedule, and the like, in a training through the command line."""

from __future__ import annotations

import json
import math

import pytest

from safe_rlhf_panacea.algorithms import dpo, grpo, ppo, sft

PROGRAMS = {"dpo": dpo, "grpo": grpo, "ppo": ppo, "sft": sft}
# These are of other tests: processes, memory, logs, servers.
LEFT_OUT = {"zero_stage", "offload", "log_type", "report_to", "rollout_engine"}
NEEDS = {"vertices": ("--vertex_probability", "0.4"), "dirichlet": ("--dirichlet_alpha", "2")}


def choices(program):
    """The values of each flag that has choices, in its parser's order."""
    found = {a.dest: a.choices for a in PROGRAMS[program].COMMAND.parser()._actions if a.choices}
    return {name: values for name, values in found.items() if name not in LEFT_OUT}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", range(4))
def test_a_training_with_the_nth_value_of_every_choice(program, number, request, tmp_path):
    flags = request.getfixturevalue(f"{program}_flags")
    if program in ("grpo", "ppo"):
        rules = request.getfixturevalue("rule_rewards")
        flags = [*flags, "--reward_models", *rules]
    given = {name: values[number % len(values)] for name, values in choices(program).items()}
    assert all(len(values) <= 4 for values in choices(program).values())
    assert given["preference_sampler"] != "stratified" or given["preference_scope"] == "sample"
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    needed = NEEDS.get(given["preference_sampler"], ())
    PROGRAMS[program].main([*flags, *words, *needed, "--max_steps", "1"])
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["finished_at"]
    assert given.items() <= record["args"].items()
    lines = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert all(math.isfinite(v) for line in lines for v in json.loads(line).values() if v)
