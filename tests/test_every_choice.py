"""Every value of every flag that has choices, and every switch, through its program's command line.

A program that loads models is run until it misses the first of them: each value has to get as far
as the command line without it. The others only read their flags.
"""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from safe_rlhf_panacea.preference_sampler import KINDS
from tests.bad_command_lines import DRY, GOOD
from tests.test_bad_command_lines import folder, programs  # noqa: F401 (fixtures)

# What these do at once is not for a test of flags.
ONLY_READ = {"miniature", "world", "datasets", "dashboard", "front_benchmark", "benchmarks.run"}
ONLY_READ |= {"regression", "compare", "over_seeds", "card"}
ONLY_READ |= {"figure_4_left_ppo_fronts", "figure_7_scaling_ablation"}
VLLM = "--rollout_engine vllm --rollout_server http://127.0.0.1:8000"
LINES = {**GOOD, "experiments": f"panacea_dpo.sh {DRY}"}
# What a value needs beside it.
NEEDS = {
    "--preference_sampler vertices": "--vertex_probability 0.4",
    "--preference_sampler stratified": "--preference_scope sample",
    "--preference_for_labels true": "--preference_scope sample",
    "--offload parameter": "--zero_stage 3",
    "--offload optimizer": "--zero_stage 2",
    "--offload all": "--zero_stage 3",
    "--need_eval true": "--eval_split_ratio 0.5",
    "--rollout_engine vllm": VLLM,
    "--rollout_stale true": VLLM,
    "--vllm_importance_sampling_correction true": VLLM,
    "--engine vllm": "--server http://127.0.0.1:8000 --reward_models helpful=a harmless=b",
    "experiments --need_eval true": "",  # the launcher says on what
}
# What is refused on purpose.
REFUSED = {
    "--only_optimize_lora false": "must be true",
    "--report_to trackio": "needs the package trackio",
    "--resume true": "holds no run to resume|is of a single training",
    **dict.fromkeys(
        (
            *(f"--preference_sampler {name}" for name in KINDS),
            *("--preference_scope sample", "--preference_for_labels true"),
        ),
        "--fixed_preference draws nothing",  # soups and discrete policies
    ),
    "--scaling_per_objective true": "--fixed_scaling and --scaling_per_objective exclude",
}


class HasRead(Exception):
    """The program has read its flags."""


def values_of(action):
    """What a flag may be given; nothing of a flag that takes numbers or texts."""
    if action.choices is not None:
        return list(map(str, action.choices))
    is_switch = action.nargs == "?" and action.const is True
    return ["true", "false"] if is_switch else []


@pytest.fixture
def end(programs, folder, capsys, monkeypatch):  # noqa: F811
    """Run a program; how it ended, and the parsers that read the command line."""
    monkeypatch.chdir(folder)
    used = []
    read = argparse.ArgumentParser.parse_known_args

    def noting(parser, *args, **kwargs):
        used.append(parser)
        return read(parser, *args, **kwargs)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", noting)

    def run(program, line):
        used.clear()
        try:
            programs[program](shlex.split(line))
            ended = None
        except SystemExit as stop:
            ended = stop.code
        except HasRead as stop:
            ended = str(stop)
        return ended, capsys.readouterr().err, list(used)

    return run


@pytest.mark.parametrize("program", LINES)
def test_every_choice(program, end, monkeypatch):
    if program in ONLY_READ:
        whole = argparse.ArgumentParser.parse_args

        def stopping(*args, **kwargs):
            whole(*args, **kwargs)
            raise HasRead

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopping)
    code, error, parsers = end(program, LINES[program])
    flags = {a.option_strings[-1]: a for p in parsers for a in p._actions if a.option_strings}
    words = {f"{flag} {value}" for flag, action in flags.items() for value in values_of(action)}
    others = {}
    for word in sorted(words):
        needed = NEEDS.get(f"{program} {word}", NEEDS.get(word, ""))
        ended = end(program, f"{LINES[program]} {word} {needed}")[:2]
        if ended != (code, error) and not re.search(REFUSED.get(word, "^$"), ended[1]):
            others[word] = ended
    assert not others
