"""The tables of stages and sizes: rows are command lines of their programs, and steps are equal."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.algorithms import dpo, grpo
from safe_rlhf_panacea.baselines import rewarded_soups
from safe_rlhf_panacea.evaluation import __main__ as evaluation
from safe_rlhf_panacea.evaluation import agreement, calibrate, compare
from safe_rlhf_panacea.experiments.runner import Reproduction
from safe_rlhf_panacea.experiments.table import (
    DATA_VARIABLE,
    MODEL_VARIABLE,
    RUNS,
    sections,
    size_of,
    stages_by_name,
    stages_of,
)
from safe_rlhf_panacea.reward_functions import concise
from safe_rlhf_panacea.small import prompts
from safe_rlhf_panacea.small.__main__ import Small
from tests.launchers.shell import dry_run

REAL = {stage.name: stage for stage in stages_of("real_fronts.sh")}
PROGRAM = "safe_rlhf_panacea."
COMPARE = f"{PROGRAM}evaluation.compare"
PAIR_SEEDS, RULE_SEEDS = (31, 32, 33), (41, 42, 43, 44, 45)
LONGEST_RULE_PROMPT = 52  # tokens, with SmolLM2's template; tests/test_small_model.py counts them
PARSERS = {
    f"{PROGRAM}algorithms.dpo": dpo.parse_arguments,
    f"{PROGRAM}algorithms.grpo": grpo.parse_arguments,
    f"{PROGRAM}baselines.rewarded_soups": lambda words: rewarded_soups.plan(words)[1],
    **{
        f"{PROGRAM}{name}": lambda words, of=of: of.COMMAND.read(words)
        for name, of in {
            "evaluation": evaluation,
            "evaluation.compare": compare,
            "evaluation.agreement": agreement,
            "evaluation.calibrate": calibrate,
            "small.prompts": prompts,
        }.items()
    },
    "eval/over_seeds.py": lambda words: over_seeds().build_parser().parse_args(words),
}


def over_seeds():
    """The program of a file, not of a module."""
    path = Path(__file__).resolve().parents[2] / "eval" / "over_seeds.py"
    spec = importlib.util.spec_from_file_location("over_seeds_of_the_rows", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def local_copies(monkeypatch, tmp_path):
    """Not for ``dry_run``'s memory, which other tests share: they go around it."""
    monkeypatch.setenv(MODEL_VARIABLE, "model")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))


@pytest.fixture
def reproduction(tmp_path):
    """Runs of which the folders of several adapters are there."""
    folders = [
        *(
            f"{name}-{algorithm}/a"
            for name in ("rewarded-soups", "discrete-policies")
            for algorithm in ("ppo", "dpo", "grpo")
        ),
        "helpsteer2-soups/a",
        *(f"pairs/seed-{seed}/soups/a" for seed in PAIR_SEEDS),
    ]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    return Reproduction(tmp_path, "small")


def read(reproduction, stage):
    return PARSERS[stage.program](reproduction.flags(stage))


def launched(script, *flags):
    return dry_run.__wrapped__(script, "--size", "small", *flags)["hyperparameters"]


def same_but_for(one, other, *names):
    return {k: v for k, v in vars(one).items() if vars(other)[k] != v}.keys() <= {*names}


def test_every_size_has_a_row_for_every_launcher_and_kind_of_evaluation():
    found = sections("paper.yaml")
    launchers = {s.key for s in (*found["trainings"], *found["beyond"]) if s.launcher}
    for name in RUNS:
        size = size_of(name)
        assert launchers <= set(size.flags)
        assert set(size.evaluations) >= {"ppo", "three", "dpo"}
    assert {name for stage in found["trainings"] for name in stage.needs} <= set(stages_by_name())


@pytest.mark.parametrize("script", ["reproduce_paper.sh", "real_fronts.sh"])
def test_every_name_is_there_once(script):
    counts = Counter(stage.name for stage in stages_of(script, on_demand=True))
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(
    "stage", [stage for stage in REAL.values() if not stage.launcher], ids=lambda stage: stage.name
)
def test_every_row_is_a_command_line_of_its_program(stage, reproduction):
    assert "{" not in " ".join(reproduction.flags(stage))
    read(reproduction, stage)


def test_evaluations_and_calibrations_of_the_small_size_read_their_flags(reproduction):
    for stage in sections("paper.yaml")["evaluations"]:
        if not stage.each:
            assert read(reproduction, stage).max_length == 96
    for name in ("calibration", "calibration-three-objectives"):
        assert read(reproduction, stages_by_name()[name]).max_length == 128


def test_pairs_are_compared_at_equal_steps(reproduction):
    for seed in PAIR_SEEDS:
        panacea, paper, soups = (
            read(reproduction, REAL[f"pairs-{seed}-{name}"])
            for name in ("panacea", "paper", "soups")
        )
        assert panacea.max_steps == paper.max_steps == 2 * soups.max_steps == 120
        assert panacea.seed == paper.seed == soups.seed == seed
        assert (panacea.lr, paper.lr, soups.lr) == (1e-3, 2e-3, 1e-3)
        assert (panacea.pref_rank, panacea.preference_for_labels) == (8, True)
        assert (paper.pref_rank, paper.preference_for_labels) == (1, False)  # Table 2
        assert paper.scaling_lr_multiplier == 1
        assert panacea.lora_scaling / panacea.lora_dim == soups.lora_scaling / soups.lora_dim
        for flags in (panacea, paper, soups):
            assert not flags.need_eval  # the test part is looked at once, at the end
            for name in ("per_device_train_batch_size", "train_datasets", "max_length"):
                assert vars(flags)[name] == vars(panacea)[name]


def test_discrete_policies_have_their_share_of_the_steps():
    report = dry_run.__wrapped__("discrete_policies_dpo.sh", "--size", "small")
    assert 3 * report["hyperparameters"]["max_steps"] == 120
    command = report["command"].split()
    assert command[len(command) - command[::-1].index("--grid_step")] == "0.5"


def test_seeds_are_compared_in_one_order(reproduction):
    found = [stage for stage in REAL.values() if stage.program == "eval/over_seeds.py"]
    assert [stage.name for stage in found] == [
        "pairs-over-seeds-panacea",
        "pairs-over-seeds-panacea-log-sigmoid",
        "pairs-over-seeds-paper",
        "pairs-over-seeds-paper-log-sigmoid",
        "rules-over-seeds",
    ]
    for stage in found:
        args = read(reproduction, stage)
        seeds = [re.search(r"seed-(\d+)", folder)[1] for folder in args.runs]
        assert seeds == [re.search(r"seed-(\d+)", folder)[1] for folder in args.baselines]
        assert seeds == list(map(str, PAIR_SEEDS if "pairs" in stage.name else RULE_SEEDS))
        assert all("/soups" in folder for folder in args.baselines)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_rewards_are_compared_at_equal_updates(algorithm):
    panacea, soups = (launched(f"{n}_{algorithm}.sh") for n in ("panacea", "rewarded_soups"))
    assert panacea["max_steps"] == 2 * soups["max_steps"]
    shared = ("actor_lr", "kl_coeff", "max_length", "bf16", "num_return_sequences")
    for name in (*shared, "per_device_prompt_batch_size", "per_device_train_batch_size"):
        assert panacea[name] == soups[name]


def test_rules_are_trained_as_make_small_trains_them(reproduction, tmp_path):
    """But for seed and folders, and the evaluations on the way."""
    settings = size_of("small").values
    made = Small(
        root=tmp_path, model=tmp_path, seed=0, settings=SimpleNamespace(**settings), bf16=True
    )
    made.max_length = LONGEST_RULE_PROMPT + settings["answer"]
    for seed in RULE_SEEDS:
        panacea = read(reproduction, REAL[f"rules-{seed}-panacea"])
        soups = read(reproduction, REAL[f"rules-{seed}-soups"])
        assert panacea.seed == soups.seed == seed
        assert panacea.max_steps == 2 * soups.max_steps == settings["steps"]
        assert (panacea.lora_dim, soups.lora_dim) == (8, 9)
        assert panacea.lora_scaling / 8 == soups.lora_scaling / 9
        assert panacea.max_length == made.max_length
        assert panacea.per_device_train_batch_size == settings["prompts"] * settings["responses"]
        assert same_but_for(
            panacea,
            soups,
            *("seed", "output_dir", "overwrite", "max_steps", "objectives", "lora_dim"),
            *("lora_scaling", "pref_rank", "preference_scope", "preference_sampler"),
            "vertex_probability",
        )
    theirs = grpo.parse_arguments(made.flags("rules rules_panacea", Path("x")))
    for name in ("actor_lr", "kl_coeff", "num_return_sequences", "max_steps", "preference_scope"):
        assert vars(theirs)[name] == vars(panacea)[name]


def test_conciseness_is_best_at_the_floor_and_worst_below_it(reproduction):
    words = reproduction.flags(REAL["rules-41-panacea"])
    (rule,) = [word for word in words if word.startswith("concise=")]
    options = dict(pair.split("=") for pair in rule.partition("?")[2].split(","))
    lengths = torch.tensor([0, 11, 12, 36, 48])
    found = concise(lengths, **{name: float(value) for name, value in options.items()})
    assert found.tolist() == pytest.approx([-3, -3, 1, -1, -2])


def test_comparisons_hold_panacea_against_soups(reproduction):
    found = [stage for stage in REAL.values() if stage.program == COMPARE]
    assert len(found) == 3 + len(RULE_SEEDS)
    for stage in found:
        args = read(reproduction, stage)
        assert args.baseline == "Rewarded Soups"
        assert any("soups" in run for run in args.runs)


def test_conflicting_pairs_are_compared_at_equal_steps(reproduction, monkeypatch):
    names = [f"helpsteer2-{method}" for method in ("ls", "tche", "soups")]
    ls, tche, soups = (read(reproduction, REAL[name]) for name in names)
    assert ls.max_steps == tche.max_steps == 2 * soups.max_steps == 120
    assert (ls.aggregation, tche.aggregation) == ("ls", "tche")
    assert ls.lora_scaling / ls.lora_dim == soups.lora_scaling / soups.lora_dim
    assert (ls.lr, tche.lr, soups.lr) == (2e-3, 2e-3, 1e-3)
    for name in ("per_device_train_batch_size", "train_datasets", "max_length", "seed"):
        assert vars(ls)[name] == vars(tche)[name] == vars(soups)[name]
    monkeypatch.delenv(DATA_VARIABLE)
    hub = read(Reproduction(reproduction.runs, "small"), REAL["helpsteer2-ls"])
    assert [*hub.train_datasets] == ["HelpSteer2/train"]
    assert list(hub.objectives) == ["helpfulness", "verbosity"]


def test_the_miniature_has_equal_steps_too():
    values = size_of("miniature").values
    for algorithm in ("dpo", "ppo", "grpo"):
        assert values[f"{algorithm}_steps"] == 2 * values[f"{algorithm}_steps_each"]
