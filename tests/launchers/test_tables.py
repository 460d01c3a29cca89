"""The paper's tables, the launchers and the programs' defaults against each other."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea.algorithms import dpo, grpo, ppo
from safe_rlhf_panacea.baselines import discrete_policies, rewarded_soups
from safe_rlhf_panacea.runs.run_record import recordable
from tests.launchers.paper_tables import TABLE_1, TABLE_2
from tests.launchers.shell import dry_run

# Appendix D: baselines have rank k + 1; the factor lora_scaling / lora_dim stays 512 / 8.
BASELINE = {"lora_dim": 9, "lora_scaling": 9 * 512 / 8}
LAUNCHERS = {
    "panacea_ppo.sh": TABLE_1,
    "panacea_dpo.sh": TABLE_2,
    "rewarded_soups_ppo.sh": TABLE_1 | BASELINE,
    "rewarded_soups_dpo.sh": TABLE_2 | BASELINE,
    "discrete_policies_ppo.sh": TABLE_1 | BASELINE,
    "discrete_policies_dpo.sh": TABLE_2 | BASELINE,
    "ablation_scaling.sh": TABLE_1,
    "panacea_ppo_three_objectives.sh": TABLE_1 | {"pref_dim": 3},
}
# Off in the programs, so that a CPU runs; the launchers turn them on.
OFF_IN_THE_PROGRAMS = {
    *("bf16", "tf32", "gradient_checkpointing"),
    *("actor_gradient_checkpointing", "critic_gradient_checkpointing"),
}
# Models, data and evaluations, which the size brings.
OF_THE_SIZE = {
    *("actor_model_name_or_path", "reward_models", "reward_scales", "train_datasets"),
    *("eval_datasets", "need_eval", "eval_strategy", "eval_interval", "save_interval"),
    *("output_dir", "preference_scope", "chat_template"),
}
# Algorithm 1: one λ per step.
OF_BOTH = {"train_datasets": ["PKU-SafeRLHF-v0/train"], "preference_scope": "batch"}
OF_PPO = {
    "actor_model_name_or_path": "PKU-Alignment/alpaca-7b-reproduced",
    "reward_scales": [["harmless", "5"]],
    "ptx_datasets": ["alpaca"],
    "aggregation": "ls",
    "preference_sampler": "uniform",
}
OF_DPO = {
    "model_name_or_path": "PKU-Alignment/alpaca-7b-reproduced",
    "objectives": ["helpful", "harmless"],
}
_REWARDED = ["--actor_model_name_or_path", "m", "--reward_models", "a=1", "b=2"]
REQUIRED = {
    "dpo": ["--model_name_or_path", "m", "--objectives", "a", "b"],
    "ppo": _REWARDED,
    "grpo": _REWARDED,
}


def defaults(algorithm):
    """What the program takes where nothing is said."""
    parse = {"dpo": dpo, "ppo": ppo, "grpo": grpo}[algorithm].parse_arguments
    flags = [*REQUIRED[algorithm], "--train_datasets", "x", "--output_dir", "y"]
    return recordable(parse(flags))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_paper_launcher_and_program_agree_row_by_row(launcher):
    values = dry_run(launcher)["hyperparameters"]
    algorithm, table, data = ("ppo", TABLE_1, OF_PPO)
    if "dpo" in launcher:
        algorithm, table, data = "dpo", TABLE_2, OF_DPO
    else:
        names = [["helpful", "PKU-Alignment/beaver-7b-v1.0-reward"], "harmless"]
        assert [values["reward_models"][0], values["reward_models"][1][0]] == names
    expected = LAUNCHERS[launcher] | OF_BOTH | data
    assert {name: values[name] for name in expected} == expected
    program = {name: defaults(algorithm)[name] for name in table}
    assert program == table | dict.fromkeys(OFF_IN_THE_PROGRAMS & set(table), False)


def test_the_launcher_of_grpo_shows_the_programs_defaults():
    report = dry_run("panacea_grpo.sh")
    values, program = report["hyperparameters"], defaults("grpo")
    differs = {name for name, value in values.items() if value != program[name]}
    assert differs - OF_THE_SIZE == OFF_IN_THE_PROGRAMS & set(values)
    assert "no GRPO" in report["mirrors"]
    soups = dry_run("rewarded_soups_grpo.sh")["hyperparameters"]
    shown = values.keys() - OF_THE_SIZE - {"objectives"}  # which soups read off the rewards
    assert {name: soups[name] for name in shown} == {n: values[n] for n in shown} | BASELINE


def test_a_reward_model_learns_the_labels_of_its_objective():
    for name in ("helpful", "harmless"):
        values = dry_run(f"reward_{name}.sh")["hyperparameters"]
        assert values["objective"] == name
        assert values["train_datasets"] == ["PKU-SafeRLHF-v0/train"]


def test_what_the_variants_of_a_baseline_change():
    assert dry_run("rewarded_soups_ppo.sh")["variants"] == {
        "helpful": {"fixed_preference": "helpful=1,harmless=0"},
        "harmless": {"fixed_preference": "helpful=0,harmless=1"},
    }
    for algorithm in ("ppo", "dpo"):
        variants = dry_run(f"discrete_policies_{algorithm}.sh")["variants"]
        assert len(variants) == 11
        assert variants["0.3_0.7"] == {"fixed_preference": "0.3,0.7"}
    variants = dry_run("ablation_scaling.sh")["variants"]
    factors = [1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    assert list(variants.values()) == [{"fixed_scaling": factor} for factor in factors]
    flags = ["grpo", *REQUIRED["grpo"], "--train_datasets", "x", "--output_dir", "y"]
    assert rewarded_soups.plan(flags)[2]["a"] == {"fixed_preference": "a=1,b=0"}
    assert len(discrete_policies.plan(flags)[2]) == 11


@pytest.mark.parametrize(
    "launcher", [*LAUNCHERS, "reward_helpful.sh", "reward_harmless.sh", "sft.sh"]
)
def test_the_papers_models_are_spoken_to_in_safe_rlhfs_template(launcher):
    for flags, expected in (((), "safe-rlhf"), (("--chat_template", "auto"), "auto")):
        assert dry_run(launcher, *flags)["hyperparameters"]["chat_template"] == expected


def test_tchebycheff_on_request():
    report = dry_run("panacea_dpo.sh", "--aggregation", "tche")
    assert report["hyperparameters"]["aggregation"] == "tche"
    assert report["hyperparameters"]["output_dir"] == "runs/paper/panacea-dpo-tche"
    assert {**report["changed"]} == {"aggregation": {"launcher": "ls", "now": "tche"}}
